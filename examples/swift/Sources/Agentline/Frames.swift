import Foundation

/// JSON as on the wire: snake_case, nothing for nil.
public enum Wire {
    public static func decode<Value: Decodable>(_ type: Value.Type, from data: Data) throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(type, from: data)
    }

    public static func encode(_ value: some Encodable) throws -> Data {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = .withoutEscapingSlashes
        return try encoder.encode(value)
    }
}

/// Any frame of the server: the fields of docs/protocol.md that this client uses. `type` says which of them there are.
public struct ServerFrame: Decodable, Sendable {
    public var type: String
    public var threadId: String?
    public var turnId: String?
    /// On frames that show an event: where to go on behind it.
    public var cursor: String?
    public var id: String?
    public var messageId: String?
    public var content: String?
    public var truncated: Bool?
    public var length: Int?
    // ready
    public var heartbeatSeconds: Double?
    public var expiresAt: String?
    public var limits: Limits?
    // attached, snapshot
    public var recovered: Bool?
    public var turns: [OpenTurn]?
    public var messages: [ShownMessage]?
    public var turn: ShownTurn?
    public var approvals: [Approval]?
    // typing
    public var active: Bool?
    // tool_call, tool_result, done, thread_updated
    public var callId: String?
    public var name: String?
    public var title: String?
    public var status: String?
    public var error: Failure?
    // approval_request, approval_resolved
    public var approvalId: String?
    public var kind: String?
    public var detail: JSONValue?
    public var options: [Option]?
    public var freeText: Bool?
    // thread_updated
    public var agent: String?
    public var unread: Int?
    public var preview: String?
    // error, goodbye
    public var code: String?
    public var message: String?
    public var retryable: Bool?
    public var retryAfter: Double?
    public var reconnectAfterMs: Int?
}

public struct Limits: Decodable, Sendable {
    public var clientFrameBytes: Int
}

public struct OpenTurn: Decodable, Sendable {
    public var turnId: String
    public var status: String
}

public struct ShownMessage: Decodable, Sendable {
    public var messageId: String
    public var turnId: String
    public var role: String
    public var content: String
    public var status: String?
    public var truncated: Bool?
}

public struct ShownTurn: Decodable, Sendable {
    public var turnId: String
    public var content: String
    public var reasoning: String
    public var tools: [Tool]
    public var truncated: Bool?
}

public struct Tool: Codable, Equatable, Sendable {
    public var callId: String
    public var name: String
    public var title: String
    public var status: String
}

public struct Option: Codable, Equatable, Sendable {
    public var id: String
    public var label: String
}

public struct Approval: Codable, Equatable, Sendable {
    public var approvalId: String
    public var turnId: String
    public var kind: String
    public var title: String
    public var detail: JSONValue?
    public var options: [Option]
    public var freeText: Bool
    public var expiresAt: String
}

public struct Failure: Codable, Equatable, Sendable {
    public var code: String
    public var message: String
    public var retryable: Bool
}

/// What `GET /api/turns/{id}` answers, as far as it is used here.
public struct WholeTurn: Decodable, Sendable {
    public struct UserMessage: Decodable, Sendable {
        public var content: String
    }

    public var turnId: String
    public var content: String
    public var userMessage: UserMessage
}

/// Any frame of the client.
public struct ClientFrame: Codable, Equatable, Sendable {
    public var type: String
    public var id: String?
    public var threadId: String?
    public var content: String?
    public var cursor: String?
    public var approvalId: String?
    public var decision: String?
    public var text: String?
    public var messageId: String?
    public var token: String?
}
