"""Pushing a finished turn to the devices of its user.

records, policy, payload and graphemes do no I/O. outbox takes rows from the store and gives them to a transport:
apns (on http2), fcm, webpush and ntfy (on http1). What a transport says about an attempt is a verdict.
"""
