import XCTest

@testable import Agentline

/// Plays the scenarios that the clients of all languages share.
final class ScenarioTests: XCTestCase {
    func testEveryScenario() throws {
        let folder = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../scenarios").standardized
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "json" }
        XCTAssertFalse(files.isEmpty)
        for file in files {
            let scenario = try JSONDecoder().decode(JSONValue.self, from: Data(contentsOf: file))
            var client = Client()
            for (index, step) in (scenario["steps"]?.array ?? []).enumerated() {
                try play(step, &client, "\(file.lastPathComponent) step \(index + 1)")
            }
        }
    }

    private func play(_ step: JSONValue, _ client: inout Client, _ place: String) throws {
        var out: [ClientFrame] = []
        if let frame = step["receive"] {
            out = client.receive(try decoded(ServerFrame.self, frame))
        } else if let send = step["send"] {
            out = client.send(threadId: send.text("thread_id"), content: send.text("content"), id: send.text("id"))
        } else if let id = step["resend"]?.string {
            out = client.resend(id: id)
        } else if let threadId = step["open"]?.string {
            out = client.open(threadId: threadId)
        } else if let threadId = step["leave"]?.string {
            out = client.leave(threadId: threadId)
        } else if let threadId = step["cancel"]?.string {
            out = client.cancel(threadId: threadId)
        } else if let seen = step["seen"] {
            out = client.seen(threadId: seen.text("thread_id"), messageId: seen.text("message_id"))
        } else if let decide = step["decide"] {
            out = client.decide(
                approvalId: decide.text("approval_id"), decision: decide.text("decision"), text: decide["text"]?.string)
        } else if let closed = step["closed"] {
            let next = client.closed(code: Int(closed["code"]?.number ?? 0), random: closed["random"]?.number ?? 0)
            XCTAssertEqual(next, expected(step["next"]), place)
        } else if let turn = step["whole"] {
            client.whole(try decoded(WholeTurn.self, turn))
        } else if step["restart"] != nil {
            client = Client(state: try Wire.decode(LineState.self, from: Wire.encode(client.state)))
        } else {
            XCTFail("\(place): unknown step")
        }
        let wanted = try (step["out"]?.array ?? []).map { try decoded(ClientFrame.self, $0) }
        XCTAssertEqual(out, wanted, place)
        if let expect = step["expect"] {
            let state = try JSONDecoder().decode(JSONValue.self, from: Wire.encode(client.state))
            holds(state, expect, place)
        }
        XCTAssertEqual(client.missing(), (step["missing"]?.array ?? []).compactMap(\.string), place)
    }

    /// Every key of `wanted` is in `found`, as it is there; null stands for absent too.
    private func holds(_ found: JSONValue?, _ wanted: JSONValue, _ place: String) {
        switch wanted {
        case .object(let fields):
            for (key, value) in fields { holds(found?[key], value, "\(place).\(key)") }
        case .array(let values):
            let items = found?.array ?? []
            XCTAssertEqual(items.count, values.count, place)
            for (index, value) in values.enumerated() where index < items.count {
                holds(items[index], value, "\(place)[\(index)]")
            }
        default:
            XCTAssertEqual(found ?? .null, wanted, place)
        }
    }

    private func expected(_ next: JSONValue?) -> Next? {
        if let code = next?["stop"]?.number { return .stop(code: Int(code)) }
        guard let afterMs = next?["reconnect_ms"]?.number else { return nil }
        return .reconnect(afterMs: Int(afterMs), renew: next?["renew"] == .bool(true))
    }

    private func decoded<Value: Decodable>(_ type: Value.Type, _ value: JSONValue) throws -> Value {
        try Wire.decode(type, from: JSONEncoder().encode(value))
    }
}

extension JSONValue {
    fileprivate subscript(key: String) -> JSONValue? {
        if case .object(let fields) = self { return fields[key] }
        return nil
    }

    fileprivate var array: [JSONValue]? {
        if case .array(let values) = self { return values }
        return nil
    }

    fileprivate var string: String? {
        if case .string(let value) = self { return value }
        return nil
    }

    fileprivate var number: Double? {
        if case .number(let value) = self { return value }
        return nil
    }

    fileprivate func text(_ key: String) -> String { self[key]?.string ?? "" }
}
