package agentline

import kotlinx.serialization.encodeToString

private val TOO_LARGE = Failure("too_large", "This message is too long for the server.", retryable = false)

/**
 * The protocol without a socket: frames in, state and frames to send out. No I/O, no clock, no randomness.
 * Not for several threads at once: its owner lets one in at a time.
 */
class Client(state: State = State()) {
    /** Replaced, never changed. */
    var state = state.copy(threads = state.threads.mapValues { it.value.copy(typing = false) })
        private set

    /** `ready` came on this connection. */
    var online = false
        private set

    /** The threads of which frames are taken, on this connection. */
    private val following = mutableSetOf<String>()

    /** Turns that wait, by thread, between `attached` and its `snapshot`. */
    private val queued = mutableMapOf<String, Set<String>>()
    private var frameBytes = Int.MAX_VALUE
    private var attempt = 0
    private var retryAfterMs = 0L
    private var reconnectAfterMs = 0L

    // --- what a person does; each returns the frames to send now ---

    /** Queue a message. [id] and the thread's id are the app's own; a UUID serves for both. */
    fun send(threadId: String, content: String, id: String): List<ClientFrame> {
        val message = Outgoing(id, threadId, content)
        state = state.copy(outbox = state.outbox + message)
        return if (online) transmit(listOf(message)) else emptyList()
    }

    /** Try a failed message once more, under the same id: it is never answered twice. */
    fun resend(id: String): List<ClientFrame> {
        val failed = state.outbox.filter { it.id == id && it.status == "failed" }
        return if (online) transmit(failed) else emptyList()
    }

    /** Follow a thread, from a list screen say. */
    fun open(threadId: String): List<ClientFrame> {
        if (threadId !in state.threads) put(ThreadState(threadId))
        return if (online && threadId !in following) listOf(attach(threadId)) else emptyList()
    }

    /** Follow it no more, and forget what was shown. */
    fun leave(threadId: String): List<ClientFrame> {
        val known = threadId in state.threads
        state = state.copy(threads = state.threads - threadId)
        following -= threadId
        return if (online && known) listOf(ClientFrame("detach", threadId = threadId)) else emptyList()
    }

    fun decide(approvalId: String, decision: String, text: String? = null): List<ClientFrame> {
        val others = state.decisions.filter { it.approvalId != approvalId }
        state = state.copy(decisions = others + Decision(approvalId, decision, text))
        return if (online) decisionFrames().takeLast(1) else emptyList()
    }

    /** A person has this message on screen. */
    fun seen(threadId: String, messageId: String): List<ClientFrame> {
        val thread = state.threads[threadId]
        if (thread == null || thread.seen == messageId) return emptyList()
        put(thread.copy(seen = messageId))
        return if (online) listOf(seenFrame(threadId, messageId)) else emptyList()
    }

    /** Stop what runs and what waits in a thread. */
    fun cancel(threadId: String): List<ClientFrame> =
        if (online) listOf(ClientFrame("cancel", threadId = threadId)) else emptyList()

    // --- what the connection does ---

    /** Turns whose whole text is to be fetched from `GET /api/turns/{id}`, for [whole]. */
    fun missing(): List<String> =
        state.threads.values.flatMap { it.turns }.filter { it.cut && it.status != "running" }.map { it.turnId }

    fun whole(turn: WholeTurn) {
        for (thread in state.threads.values) {
            if (thread.turns.none { it.turnId == turn.turnId }) continue
            change(thread.threadId, turn.turnId) {
                it.copy(text = turn.content, user = turn.userMessage.content, cut = false)
            }
        }
    }

    /** The connection has ended with this code (1006 when there was none); [random] is in [0, 1). */
    fun closed(code: Int, random: Double): Next {
        online = false
        following.clear()
        queued.clear()
        state = state.copy(threads = state.threads.mapValues { it.value.copy(typing = false) })
        if (code == 1009) failLongest()
        val floor = maxOf(reconnectAfterMs, if (code == 4429) retryAfterMs else 0)
        reconnectAfterMs = 0
        retryAfterMs = 0
        return afterClose(code, attempt++, floor, random)
    }

    /** Take one frame of the server. Returns the frames to send now. */
    fun receive(frame: ServerFrame): List<ClientFrame> {
        val threadId = frame.threadId ?: ""
        when (frame.type) {
            "ready" -> {
                frameBytes = frame.limits?.clientFrameBytes ?: Int.MAX_VALUE
                attempt = 0
                return if (online) emptyList() else catchUp()
            }
            "accepted" -> return accepted(frame)
            "attached" -> return attached(frame)
            "snapshot" -> if (threadId in following) startOver(frame)
            "typing" -> if (threadId in following) change(threadId) { it.copy(typing = frame.active) }
            "read" -> if (threadId in state.threads) change(threadId) { it.copy(seen = frame.messageId) }
            "thread_updated" -> updated(frame)
            "error" -> {
                frame.retryAfter?.let { retryAfterMs = (it * 1000).toLong() }
                val failure = Failure(frame.code ?: "", frame.message ?: "", frame.retryable)
                frame.id?.let { changeOutgoing(it) { sent -> sent.copy(status = "failed", error = failure) } }
            }
            "goodbye" -> reconnectAfterMs = frame.reconnectAfterMs ?: 0
            "approval_resolved" -> if (frame.cursor == null || threadId in following) {
                resolved(threadId, frame.turnId ?: "", frame.approvalId ?: "")
                if (frame.cursor != null) change(threadId) { it.copy(cursor = frame.cursor) }
            }
            "user_message", "message", "reset", "reasoning", "tool_call", "tool_result", "approval_request", "done" ->
                // Not followed: it was on its way when the person left the thread, or an `attach` will bring it again.
                if (threadId in following) {
                    apply(frame)
                    change(threadId) { it.copy(cursor = frame.cursor) }
                }
            else -> Unit // `detached`, `pong`, and what later servers may add
        }
        return emptyList()
    }

    /** First the threads, so that nothing is skipped; then what was not confirmed, under the same ids. */
    private fun catchUp(): List<ClientFrame> {
        online = true
        val threads = state.threads.values.toList()
        val again = state.outbox.filter { it.status == "sending" || (it.status == "failed" && it.error?.retryable == true) }
        return threads.map { attach(it.threadId) } +
            transmit(again) +
            decisionFrames() +
            // The mark only moves forward: saying it again does no harm.
            threads.mapNotNull { thread -> thread.seen?.let { seenFrame(thread.threadId, it) } }
    }

    private fun attach(threadId: String) =
        ClientFrame("attach", threadId = threadId, cursor = state.threads[threadId]?.cursor)

    private fun seenFrame(threadId: String, messageId: String) =
        ClientFrame("seen", threadId = threadId, messageId = messageId)

    private fun transmit(messages: List<Outgoing>): List<ClientFrame> = messages.mapNotNull { message ->
        val frame = ClientFrame("message", id = message.id, threadId = message.threadId, content = message.content)
        val tooLong = Wire.encodeToString(frame).encodeToByteArray().size > frameBytes
        changeOutgoing(message.id) {
            if (tooLong) it.copy(status = "failed", error = TOO_LARGE) else it.copy(status = "sending", error = null)
        }
        frame.takeUnless { tooLong }
    }

    private fun decisionFrames() = state.decisions.map {
        ClientFrame("approval", approvalId = it.approvalId, decision = it.decision, text = it.text)
    }

    private fun attached(frame: ServerFrame): List<ClientFrame> {
        val threadId = frame.threadId ?: return emptyList()
        val thread = state.threads[threadId] ?: return emptyList()
        if (frame.recovered && frame.cursor != thread.cursor) {
            // More was shown since this was asked for, and would be shown twice.
            following -= threadId
            return listOf(attach(threadId))
        }
        following += threadId
        if (!frame.recovered) queued[threadId] = frame.turns.filter { it.status == "queued" }.map { it.turnId }.toSet()
        return emptyList()
    }

    private fun accepted(frame: ServerFrame): List<ClientFrame> {
        val threadId = frame.threadId ?: return emptyList()
        val thread = state.threads[threadId] ?: ThreadState(threadId)
        if (thread.turns.any { it.turnId == frame.turnId }) {
            dropOutgoing { it.id == frame.id }
        } else if (frame.id != null) {
            changeOutgoing(frame.id) { it.copy(status = "accepted", turnId = frame.turnId) }
        }
        if (thread.cursor != null && threadId !in following) {
            // The server follows from this turn on; what came before it is missing here.
            return listOf(attach(threadId))
        }
        following += threadId
        put(thread.copy(cursor = thread.cursor ?: frame.cursor))
        return emptyList()
    }

    private fun updated(frame: ServerFrame) {
        val threadId = frame.threadId ?: return
        if (frame.status == "deleted") {
            state = state.copy(list = state.list - threadId)
            leave(threadId)
            return
        }
        val summary = Summary(
            threadId = threadId,
            agent = frame.agent ?: "",
            title = frame.title ?: "",
            status = frame.status ?: "",
            unread = frame.unread,
            preview = frame.preview ?: "",
        )
        state = state.copy(list = state.list + (threadId to summary))
    }

    private fun apply(frame: ServerFrame) {
        val turnId = frame.turnId ?: return
        val content = frame.content ?: ""
        if (frame.type == "user_message") dropOutgoing { it.id == frame.id || it.turnId == turnId }
        change(frame.threadId ?: return, turnId) { turn ->
            when (frame.type) {
                "user_message" -> turn.copy(user = content, cut = frame.truncated)
                "message" -> turn.copy(text = turn.text + content)
                "reset" -> turn.copy(text = content, cut = frame.truncated)
                "reasoning" -> turn.copy(reasoning = turn.reasoning + content)
                "tool_call" -> turn.copy(
                    tools = turn.tools + Tool(frame.callId ?: "", frame.name ?: "", frame.title ?: "", "running"),
                )
                "tool_result" -> turn.copy(
                    tools = turn.tools.map { if (it.callId == frame.callId) it.copy(status = frame.status ?: "") else it },
                )
                "approval_request" -> turn.copy(approvals = turn.approvals + approval(frame, turnId))
                else -> turn.copy(
                    status = frame.status ?: "",
                    messageId = frame.messageId,
                    error = frame.error,
                    // Authoritative where it is whole; where it is cut, what was joined is whole unless its beginning
                    // was cut too. Lengths on the wire count Unicode code points.
                    text = if (frame.truncated) turn.text else content,
                    cut = frame.truncated &&
                        (turn.cut || turn.text.codePointCount(0, turn.text.length) != frame.length),
                )
            }
        }
    }

    private fun approval(frame: ServerFrame, turnId: String) = Approval(
        approvalId = frame.approvalId ?: "",
        turnId = turnId,
        kind = frame.kind ?: "",
        title = frame.title ?: "",
        detail = frame.detail,
        options = frame.options,
        freeText = frame.freeText,
        expiresAt = frame.expiresAt ?: "",
    )

    private fun resolved(threadId: String, turnId: String, approvalId: String) {
        state = state.copy(decisions = state.decisions.filter { it.approvalId != approvalId })
        if (state.threads[threadId]?.turns?.any { it.turnId == turnId } == true) {
            change(threadId, turnId) { turn ->
                turn.copy(approvals = turn.approvals.filter { it.approvalId != approvalId })
            }
        }
    }

    /** The log could not go on from where this client stood: what the snapshot shows replaces all that was shown. */
    private fun startOver(frame: ServerFrame) {
        val threadId = frame.threadId ?: return
        val turns = LinkedHashMap<String, Turn>()
        for (message in frame.messages) {
            val turn = turns[message.turnId] ?: Turn(message.turnId)
            val cut = turn.cut || message.truncated
            turns[message.turnId] = if (message.role == "user") {
                turn.copy(user = message.content, cut = cut)
            } else {
                turn.copy(
                    text = message.content,
                    messageId = message.messageId,
                    status = message.status ?: "completed",
                    cut = cut,
                )
            }
        }
        frame.turn?.let { running ->
            val turn = turns[running.turnId] ?: Turn(running.turnId)
            turns[running.turnId] = turn.copy(
                text = running.content,
                reasoning = running.reasoning,
                tools = running.tools,
                cut = turn.cut || running.truncated,
            )
        }
        val shown = state.threads[threadId]?.turns ?: emptyList()
        val gone = shown.flatMap { turn -> turn.approvals.map { it.approvalId } }.toMutableSet()
        for (approval in frame.approvals) {
            val turn = turns[approval.turnId] ?: Turn(approval.turnId)
            turns[approval.turnId] = turn.copy(approvals = turn.approvals + approval)
            gone -= approval.approvalId
        }
        state = state.copy(decisions = state.decisions.filter { it.approvalId !in gone })
        val waiting = queued[threadId] ?: emptySet()
        dropOutgoing { it.threadId == threadId && it.turnId != null && (it.turnId in turns || it.turnId !in waiting) }
        change(threadId) { it.copy(cursor = frame.cursor, turns = turns.values.toList()) }
    }

    private fun failLongest() {
        val longest = state.outbox.filter { it.status == "sending" }.maxByOrNull { it.content.length } ?: return
        changeOutgoing(longest.id) { it.copy(status = "failed", error = TOO_LARGE) }
    }

    // --- changes of the state, each a new value ---

    private fun put(thread: ThreadState) {
        state = state.copy(threads = state.threads + (thread.threadId to thread))
    }

    private fun change(threadId: String, how: (ThreadState) -> ThreadState) {
        put(how(state.threads[threadId] ?: ThreadState(threadId)))
    }

    private fun change(threadId: String, turnId: String, how: (Turn) -> Turn) = change(threadId) { thread ->
        val at = thread.turns.indexOfLast { it.turnId == turnId }
        if (at < 0) {
            thread.copy(turns = thread.turns + how(Turn(turnId)))
        } else {
            thread.copy(turns = thread.turns.toMutableList().also { it[at] = how(it[at]) })
        }
    }

    private fun changeOutgoing(id: String, how: (Outgoing) -> Outgoing) {
        state = state.copy(outbox = state.outbox.map { if (it.id == id) how(it) else it })
    }

    private fun dropOutgoing(which: (Outgoing) -> Boolean) {
        state = state.copy(outbox = state.outbox.filterNot(which))
    }
}
