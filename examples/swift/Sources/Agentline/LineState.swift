/// What an app keeps and shows. Store it whole, in one write (`Wire.encode(state)`), so that a cursor never goes apart
/// from the text it belongs to.
public struct LineState: Codable, Equatable, Sendable {
    public var threads: [String: ThreadState] = [:]
    public var outbox: [Outgoing] = []
    /// Answers to approval requests that are not confirmed yet.
    public var decisions: [Decision] = []
    /// For a list screen.
    public var list: [String: Summary] = [:]

    public init() {}
}

public struct ThreadState: Codable, Equatable, Sendable {
    public var threadId: String
    /// Where to go on; nil until something of the thread was shown.
    public var cursor: String?
    public var turns: [Turn] = []
    /// The agent is at work.
    public var typing = false
    /// The last message that a person has seen, on whichever device.
    public var seen: String?
}

public struct Turn: Codable, Equatable, Identifiable, Sendable {
    public var turnId: String
    /// What the person wrote.
    public var user = ""
    /// The answer so far.
    public var text = ""
    public var reasoning = ""
    /// `running` until it is `completed`, `cancelled`, `failed` or `interrupted`.
    public var status = "running"
    /// The answer's id, for `seen`; known when the turn has ended.
    public var messageId: String?
    public var tools: [Tool] = []
    /// What waits for a decision.
    public var approvals: [Approval] = []
    public var error: Failure?
    /// The text is not all of it: `GET /api/turns/{id}` has the whole once the turn has ended.
    public var cut = false

    public var id: String { turnId }
}

/// A message that is not in its thread's log yet: show it below the turns.
public struct Outgoing: Codable, Equatable, Identifiable, Sendable {
    public enum Status: String, Codable, Sendable {
        case sending
        /// Durable, and waits for its turn.
        case accepted
        /// See `error`; sent again at the next connect if retryable.
        case failed
    }

    public var id: String
    public var threadId: String
    public var content: String
    public var status = Status.sending
    public var turnId: String?
    public var error: Failure?
}

public struct Decision: Codable, Equatable, Sendable {
    public var approvalId: String
    public var decision: String
    public var text: String?
}

public struct Summary: Codable, Equatable, Sendable {
    public var threadId: String
    public var agent: String
    public var title: String
    public var status: String
    public var unread: Int
    public var preview: String
}
