/// What to do when a connection has ended.
public enum Next: Equatable, Sendable {
    /// Connect again after so many milliseconds, with a new token if `renew`.
    case reconnect(afterMs: Int, renew: Bool)
    /// Not before something has changed.
    case stop(code: Int)
}

private let firstMs = 500
private let mostMs = 30_000

/// `attempt` counts the connections since the last `ready`, `floorMs` is what the server asked to wait, `random` is in
/// [0, 1): spreading over the whole interval keeps a thousand phones from coming back at the same moment.
public func afterClose(code: Int, attempt: Int, floorMs: Int, random: Double) -> Next {
    if (4500...4999).contains(code) { return .stop(code: code) }
    let most = min(mostMs, firstMs << min(attempt, 10))
    let renew = code == 4401
    if renew && attempt == 0 { return .reconnect(afterMs: 0, renew: renew) }
    return .reconnect(afterMs: floorMs + Int(random * Double(most)), renew: renew)
}

/// The close code that says the same as a refused upgrade.
public func codeOfRefusal(status: Int) -> Int {
    switch status {
    case 401: return 4501
    case 403: return 4503
    default: return 1006
    }
}
