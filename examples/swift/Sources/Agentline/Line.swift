import Combine
import Foundation

/// One socket to the gateway that comes back by itself, for as long as `run` runs.
@MainActor
public final class Line: ObservableObject {
    @Published public private(set) var state: LineState
    @Published public private(set) var online = false

    private let url: URL
    private let agent: String
    private let deviceId: String?
    private let token: @Sendable (_ renew: Bool) async throws -> String
    private var client: Client
    private var socket: URLSessionWebSocketTask?
    private var waiting: Task<Void, Never>?
    private var renewal: Task<Void, Never>?
    private var outgoing: Task<Void, Never>?
    /// Whether the last ping got its pong.
    private var answered = true
    private var fetching: Set<String> = []
    private let session = URLSession(configuration: .default)

    /// `url` is `https://chat.example.org`. `token` gives a token that is valid now, a fresh one if its argument is true;
    /// it is asked before every connect. `deviceId` is the id under which this device is registered for push, `kept` what
    /// was kept of an earlier life of the app.
    public init(
        url: URL, agent: String, deviceId: String? = nil, kept: LineState = LineState(),
        token: @escaping @Sendable (_ renew: Bool) async throws -> String
    ) {
        self.url = url
        self.agent = agent
        self.deviceId = deviceId
        self.token = token
        client = Client(state: kept)
        state = client.state
    }

    /// Returns the message's id. Works offline: it is sent, once, when the line is back.
    @discardableResult
    public func send(_ content: String, to threadId: String) -> String {
        let id = UUID().uuidString
        transmit(client.send(threadId: threadId, content: content, id: id))
        return id
    }

    public func resend(_ id: String) { transmit(client.resend(id: id)) }

    public func open(_ threadId: String) { transmit(client.open(threadId: threadId)) }

    public func leave(_ threadId: String) { transmit(client.leave(threadId: threadId)) }

    public func decide(_ approvalId: String, _ decision: String, text: String? = nil) {
        transmit(client.decide(approvalId: approvalId, decision: decision, text: text))
    }

    public func seen(_ messageId: String, in threadId: String) {
        transmit(client.seen(threadId: threadId, messageId: messageId))
    }

    public func cancel(_ threadId: String) { transmit(client.cancel(threadId: threadId)) }

    /// The app is in the foreground or the network is back: do not sit out the wait.
    public func wake() { waiting?.cancel() }

    /// Connect, and stay connected until the task is cancelled (nil), or until it makes no sense to go on: 4501 sign in
    /// again, 4503 and 4504 ask the operator, 4505 too many connections.
    public func run() async -> Int? {
        var renew = false
        while !Task.isCancelled {
            let code = await connection(renew: renew)
            let next = client.closed(code: code, random: Double.random(in: 0..<1))
            publish()
            switch next {
            case .stop(let code):
                return code
            case .reconnect(let afterMs, let again):
                renew = again
                let wait = Task<Void, Never> { _ = try? await Task.sleep(for: .milliseconds(afterMs)) }
                waiting = wait
                await withTaskCancellationHandler {
                    await wait.value
                } onCancel: {
                    wait.cancel()
                }
                waiting = nil
            }
        }
        return nil
    }

    /// One connection from its beginning to its end. Returns the code it was closed with.
    private func connection(renew: Bool) async -> Int {
        guard let bearer = try? await token(renew), let request = request(bearer) else { return 1006 }
        let task = session.webSocketTask(with: request)
        task.maximumMessageSize = 1 << 20
        task.resume()
        socket = task
        let pinging = Task { await ping(task) }
        defer {
            socket = nil
            pinging.cancel()
            renewal?.cancel()
            outgoing?.cancel()
            task.cancel(with: .goingAway, reason: nil)
        }
        return await withTaskCancellationHandler {
            while true {
                do {
                    guard case .string(let text) = try await task.receive() else { continue }
                    received(try Wire.decode(ServerFrame.self, from: Data(text.utf8)))
                } catch {
                    return Self.closeCode(of: task)
                }
            }
        } onCancel: {
            task.cancel(with: .goingAway, reason: nil)
        }
    }

    private func request(_ bearer: String) -> URLRequest? {
        let path = url.appendingPathComponent("api").appendingPathComponent(agent).appendingPathComponent("ws")
        guard var parts = URLComponents(url: path, resolvingAgainstBaseURL: false) else { return nil }
        parts.scheme = parts.scheme == "http" ? "ws" : "wss"
        if let deviceId { parts.queryItems = [URLQueryItem(name: "device_id", value: deviceId)] }
        guard let address = parts.url else { return nil }
        var request = URLRequest(url: address, timeoutInterval: 20)
        request.setValue("Bearer \(bearer)", forHTTPHeaderField: "Authorization")
        return request
    }

    /// The code that the server closed with; that of its answer where it refused the upgrade; else 1006.
    private nonisolated static func closeCode(of task: URLSessionWebSocketTask) -> Int {
        if task.closeCode != .invalid { return task.closeCode.rawValue }
        if let refusal = task.response as? HTTPURLResponse, refusal.statusCode != 101 {
            return codeOfRefusal(status: refusal.statusCode)
        }
        return 1006
    }

    private func received(_ frame: ServerFrame) {
        if frame.type == "ready", let expiresAt = frame.expiresAt { renewBefore(expiresAt) }
        transmit(client.receive(frame))
        for turnId in client.missing() where fetching.insert(turnId).inserted {
            Task { await fetchWhole(turnId) }
        }
    }

    /// A dead network says nothing: without a pong before the next ping the socket is given up.
    private func ping(_ task: URLSessionWebSocketTask) async {
        answered = true
        while true {
            guard (try? await Task.sleep(for: .seconds(15))) != nil else { return }
            guard answered else { return task.cancel(with: .goingAway, reason: nil) }
            answered = false
            task.sendPing { [weak self] error in
                guard error == nil else { return }
                Task { @MainActor in self?.answered = true }
            }
        }
    }

    private func renewBefore(_ expiresAt: String) {
        renewal?.cancel()
        let format = Date.ISO8601FormatStyle(includingFractionalSeconds: true)
        guard let date = try? Date(expiresAt, strategy: format) else { return }
        let wait = max(date.timeIntervalSinceNow - 60, 1)
        renewal = Task {
            // Without a new one the connection lives until the token expires; then the next connect asks again.
            guard (try? await Task.sleep(for: .seconds(wait))) != nil, let fresh = try? await token(true) else { return }
            if !Task.isCancelled { transmit([ClientFrame(type: "auth", token: fresh)]) }
        }
    }

    private func fetchWhole(_ turnId: String) async {
        defer { fetching.remove(turnId) }
        guard let bearer = try? await token(false) else { return }
        let path = url.appendingPathComponent("api").appendingPathComponent("turns").appendingPathComponent(turnId)
        var request = URLRequest(url: path)
        request.setValue("Bearer \(bearer)", forHTTPHeaderField: "Authorization")
        guard let (data, response) = try? await session.data(for: request),
            (response as? HTTPURLResponse)?.statusCode == 200,
            let turn = try? Wire.decode(WholeTurn.self, from: data)
        else { return }  // it stays missing: the next frame tries again
        client.whole(turn)
        publish()
    }

    /// Frames go out one behind the other: each send waits for the one before.
    private func transmit(_ frames: [ClientFrame]) {
        if let socket, !frames.isEmpty {
            let before = outgoing
            outgoing = Task {
                await before?.value
                for frame in frames {
                    guard let data = try? Wire.encode(frame) else { continue }
                    try? await socket.send(.string(String(decoding: data, as: UTF8.self)))
                }
            }
        }
        publish()
    }

    private func publish() {
        state = client.state
        online = client.online
    }
}
