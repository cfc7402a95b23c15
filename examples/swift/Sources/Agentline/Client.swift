import Foundation

private let tooLarge = Failure(
    code: "too_large", message: "This message is too long for the server.", retryable: false)

/// The protocol without a socket: frames in, state and frames to send out. No I/O, no clock, no randomness.
public struct Client: Sendable {
    public private(set) var state: LineState
    /// `ready` came on this connection.
    public private(set) var online = false
    /// The threads of which frames are taken, on this connection.
    private var following: Set<String> = []
    /// Turns that wait, by thread, between `attached` and its `snapshot`.
    private var queued: [String: Set<String>] = [:]
    private var frameBytes = Int.max
    private var attempt = 0
    private var retryAfterMs = 0
    private var reconnectAfterMs = 0

    public init(state: LineState = LineState()) {
        self.state = state
        stopTyping()
    }

    // MARK: - What a person does; each returns the frames to send now

    /// Queue a message. `id` and the thread's id are the app's own; a UUID serves for both.
    public mutating func send(threadId: String, content: String, id: String) -> [ClientFrame] {
        let message = Outgoing(id: id, threadId: threadId, content: content)
        state.outbox.append(message)
        return online ? transmit([message]) : []
    }

    /// Try a failed message once more, under the same id: it is never answered twice.
    public mutating func resend(id: String) -> [ClientFrame] {
        let failed = state.outbox.filter { $0.id == id && $0.status == .failed }
        return online ? transmit(failed) : []
    }

    /// Follow a thread, from a list screen say.
    public mutating func open(threadId: String) -> [ClientFrame] {
        if state.threads[threadId] == nil { state.threads[threadId] = ThreadState(threadId: threadId) }
        return online && !following.contains(threadId) ? [attach(threadId)] : []
    }

    /// Follow it no more, and forget what was shown.
    public mutating func leave(threadId: String) -> [ClientFrame] {
        let known = state.threads.removeValue(forKey: threadId) != nil
        following.remove(threadId)
        return online && known ? [ClientFrame(type: "detach", threadId: threadId)] : []
    }

    public mutating func decide(approvalId: String, decision: String, text: String? = nil) -> [ClientFrame] {
        state.decisions.removeAll { $0.approvalId == approvalId }
        state.decisions.append(Decision(approvalId: approvalId, decision: decision, text: text))
        return online ? Array(decisionFrames().suffix(1)) : []
    }

    /// A person has this message on screen.
    public mutating func seen(threadId: String, messageId: String) -> [ClientFrame] {
        guard let thread = state.threads[threadId], thread.seen != messageId else { return [] }
        state.threads[threadId]?.seen = messageId
        return online ? [seenFrame(threadId, messageId)] : []
    }

    /// Stop what runs and what waits in a thread.
    public func cancel(threadId: String) -> [ClientFrame] {
        online ? [ClientFrame(type: "cancel", threadId: threadId)] : []
    }

    // MARK: - What the connection does

    /// Turns whose whole text is to be fetched from `GET /api/turns/{id}`, for `whole`.
    public func missing() -> [String] {
        state.threads.values.flatMap(\.turns).filter { $0.cut && $0.status != "running" }.map(\.turnId)
    }

    public mutating func whole(_ turn: WholeTurn) {
        for (threadId, thread) in state.threads where thread.turns.contains(where: { $0.turnId == turn.turnId }) {
            change(threadId, turn.turnId) {
                $0.text = turn.content
                $0.user = turn.userMessage.content
                $0.cut = false
            }
        }
    }

    /// The connection has ended with this code (1006 when there was none); `random` is in [0, 1).
    public mutating func closed(code: Int, random: Double) -> Next {
        online = false
        following.removeAll()
        queued.removeAll()
        stopTyping()
        if code == 1009 { failLongest() }
        let floor = max(reconnectAfterMs, code == 4429 ? retryAfterMs : 0)
        reconnectAfterMs = 0
        retryAfterMs = 0
        defer { attempt += 1 }
        return afterClose(code: code, attempt: attempt, floorMs: floor, random: random)
    }

    /// Take one frame of the server. Returns the frames to send now.
    public mutating func receive(_ frame: ServerFrame) -> [ClientFrame] {
        let threadId = frame.threadId ?? ""
        switch frame.type {
        case "ready":
            frameBytes = frame.limits?.clientFrameBytes ?? Int.max
            attempt = 0
            return online ? [] : catchUp()
        case "accepted":
            return accepted(frame, threadId)
        case "attached":
            return attached(frame, threadId)
        case "snapshot":
            if following.contains(threadId) { startOver(frame, threadId) }
        case "typing":
            if following.contains(threadId) { state.threads[threadId]?.typing = frame.active ?? false }
        case "read":
            state.threads[threadId]?.seen = frame.messageId
        case "thread_updated":
            updated(frame, threadId)
        case "error":
            if let seconds = frame.retryAfter { retryAfterMs = Int(seconds * 1000) }
            if let id = frame.id {
                let failure = Failure(
                    code: frame.code ?? "", message: frame.message ?? "", retryable: frame.retryable ?? false)
                changeOutgoing(id) {
                    $0.status = .failed
                    $0.error = failure
                }
            }
        case "goodbye":
            reconnectAfterMs = frame.reconnectAfterMs ?? 0
        case "approval_resolved":
            if frame.cursor == nil || following.contains(threadId) {
                resolved(threadId, frame.turnId ?? "", frame.approvalId ?? "")
                if let cursor = frame.cursor { state.threads[threadId]?.cursor = cursor }
            }
        case "user_message", "message", "reset", "reasoning", "tool_call", "tool_result", "approval_request", "done":
            // Not followed: it was on its way when the person left the thread, or an `attach` will bring it again.
            if following.contains(threadId) {
                apply(frame, threadId)
                state.threads[threadId]?.cursor = frame.cursor
            }
        default:  // `detached`, `pong`, and what later servers may add
            break
        }
        return []
    }

    /// First the threads, so that nothing is skipped; then what was not confirmed, under the same ids.
    private mutating func catchUp() -> [ClientFrame] {
        online = true
        let threads = state.threads.values.sorted { $0.threadId < $1.threadId }
        let again = state.outbox.filter {
            $0.status == .sending || ($0.status == .failed && $0.error?.retryable == true)
        }
        // The read mark only moves forward: saying it again does no harm.
        let marks = threads.compactMap { thread in thread.seen.map { seenFrame(thread.threadId, $0) } }
        return threads.map { attach($0.threadId) } + transmit(again) + decisionFrames() + marks
    }

    private func attach(_ threadId: String) -> ClientFrame {
        ClientFrame(type: "attach", threadId: threadId, cursor: state.threads[threadId]?.cursor)
    }

    private func seenFrame(_ threadId: String, _ messageId: String) -> ClientFrame {
        ClientFrame(type: "seen", threadId: threadId, messageId: messageId)
    }

    private mutating func transmit(_ messages: [Outgoing]) -> [ClientFrame] {
        var frames: [ClientFrame] = []
        for message in messages {
            let frame = ClientFrame(
                type: "message", id: message.id, threadId: message.threadId, content: message.content)
            let size = (try? Wire.encode(frame).count) ?? Int.max
            let tooLong = size > frameBytes
            changeOutgoing(message.id) {
                $0.status = tooLong ? .failed : .sending
                $0.error = tooLong ? tooLarge : nil
            }
            if !tooLong { frames.append(frame) }
        }
        return frames
    }

    private func decisionFrames() -> [ClientFrame] {
        state.decisions.map {
            ClientFrame(type: "approval", approvalId: $0.approvalId, decision: $0.decision, text: $0.text)
        }
    }

    private mutating func attached(_ frame: ServerFrame, _ threadId: String) -> [ClientFrame] {
        guard let thread = state.threads[threadId] else { return [] }
        let recovered = frame.recovered ?? false
        if recovered && frame.cursor != thread.cursor {
            // More was shown since this was asked for, and would be shown twice.
            following.remove(threadId)
            return [attach(threadId)]
        }
        following.insert(threadId)
        if !recovered {
            queued[threadId] = Set((frame.turns ?? []).filter { $0.status == "queued" }.map(\.turnId))
        }
        return []
    }

    private mutating func accepted(_ frame: ServerFrame, _ threadId: String) -> [ClientFrame] {
        var thread = state.threads[threadId] ?? ThreadState(threadId: threadId)
        if thread.turns.contains(where: { $0.turnId == frame.turnId }) {
            state.outbox.removeAll { $0.id == frame.id }
        } else if let id = frame.id {
            changeOutgoing(id) {
                $0.status = .accepted
                $0.turnId = frame.turnId
            }
        }
        if thread.cursor != nil && !following.contains(threadId) {
            // The server follows from this turn on; what came before it is missing here.
            return [attach(threadId)]
        }
        following.insert(threadId)
        thread.cursor = thread.cursor ?? frame.cursor
        state.threads[threadId] = thread
        return []
    }

    private mutating func updated(_ frame: ServerFrame, _ threadId: String) {
        if frame.status == "deleted" {
            state.list[threadId] = nil
            _ = leave(threadId: threadId)
            return
        }
        state.list[threadId] = Summary(
            threadId: threadId, agent: frame.agent ?? "", title: frame.title ?? "", status: frame.status ?? "",
            unread: frame.unread ?? 0, preview: frame.preview ?? "")
    }

    private mutating func apply(_ frame: ServerFrame, _ threadId: String) {
        guard let turnId = frame.turnId else { return }
        let content = frame.content ?? ""
        let truncated = frame.truncated ?? false
        if frame.type == "user_message" {
            state.outbox.removeAll { $0.id == frame.id || $0.turnId == turnId }
        }
        change(threadId, turnId) { turn in
            switch frame.type {
            case "user_message":
                turn.user = content
                turn.cut = truncated
            case "message":
                turn.text += content
            case "reset":
                turn.text = content
                turn.cut = truncated
            case "reasoning":
                turn.reasoning += content
            case "tool_call":
                turn.tools.append(
                    Tool(
                        callId: frame.callId ?? "", name: frame.name ?? "", title: frame.title ?? "",
                        status: "running"))
            case "tool_result":
                for at in turn.tools.indices where turn.tools[at].callId == frame.callId {
                    turn.tools[at].status = frame.status ?? ""
                }
            case "approval_request":
                turn.approvals.append(
                    Approval(
                        approvalId: frame.approvalId ?? "", turnId: turnId, kind: frame.kind ?? "",
                        title: frame.title ?? "", detail: frame.detail, options: frame.options ?? [],
                        freeText: frame.freeText ?? false, expiresAt: frame.expiresAt ?? ""))
            default:  // done
                turn.status = frame.status ?? ""
                turn.messageId = frame.messageId
                turn.error = frame.error
                if truncated {
                    // What was joined is whole unless its beginning was cut too. Lengths on the wire count Unicode code
                    // points; Swift's `count` counts grapheme clusters.
                    turn.cut = turn.cut || turn.text.unicodeScalars.count != frame.length
                } else {
                    turn.text = content
                    turn.cut = false
                }
            }
        }
    }

    private mutating func resolved(_ threadId: String, _ turnId: String, _ approvalId: String) {
        state.decisions.removeAll { $0.approvalId == approvalId }
        guard let at = state.threads[threadId]?.turns.lastIndex(where: { $0.turnId == turnId }) else { return }
        state.threads[threadId]?.turns[at].approvals.removeAll { $0.approvalId == approvalId }
    }

    /// The log could not go on from where this client stood: what the snapshot shows replaces all that was shown.
    private mutating func startOver(_ frame: ServerFrame, _ threadId: String) {
        var turns: [Turn] = []
        func place(_ turnId: String) -> Int {
            if let at = turns.lastIndex(where: { $0.turnId == turnId }) { return at }
            turns.append(Turn(turnId: turnId))
            return turns.count - 1
        }
        for message in frame.messages ?? [] {
            let at = place(message.turnId)
            if message.role == "user" {
                turns[at].user = message.content
            } else {
                turns[at].text = message.content
                turns[at].messageId = message.messageId
                turns[at].status = message.status ?? "completed"
            }
            turns[at].cut = turns[at].cut || (message.truncated ?? false)
        }
        if let running = frame.turn {
            let at = place(running.turnId)
            turns[at].text = running.content
            turns[at].reasoning = running.reasoning
            turns[at].tools = running.tools
            turns[at].cut = turns[at].cut || (running.truncated ?? false)
        }
        var gone = Set((state.threads[threadId]?.turns ?? []).flatMap(\.approvals).map(\.approvalId))
        for approval in frame.approvals ?? [] {
            let at = place(approval.turnId)
            turns[at].approvals.append(approval)
            gone.remove(approval.approvalId)
        }
        state.decisions.removeAll { gone.contains($0.approvalId) }
        let shown = Set(turns.map(\.turnId))
        let waiting = queued[threadId] ?? []
        state.outbox.removeAll { message in
            guard message.threadId == threadId, let turnId = message.turnId else { return false }
            return shown.contains(turnId) || !waiting.contains(turnId)
        }
        state.threads[threadId]?.cursor = frame.cursor
        state.threads[threadId]?.turns = turns
    }

    private mutating func failLongest() {
        let sending = state.outbox.filter { $0.status == .sending }
        guard let longest = sending.max(by: { $0.content.utf8.count < $1.content.utf8.count }) else { return }
        changeOutgoing(longest.id) {
            $0.status = .failed
            $0.error = tooLarge
        }
    }

    // MARK: - Changes of the state

    private mutating func stopTyping() {
        for threadId in state.threads.keys { state.threads[threadId]?.typing = false }
    }

    private mutating func change(_ threadId: String, _ turnId: String, _ how: (inout Turn) -> Void) {
        var thread = state.threads[threadId] ?? ThreadState(threadId: threadId)
        if let at = thread.turns.lastIndex(where: { $0.turnId == turnId }) {
            how(&thread.turns[at])
        } else {
            var turn = Turn(turnId: turnId)
            how(&turn)
            thread.turns.append(turn)
        }
        state.threads[threadId] = thread
    }

    private mutating func changeOutgoing(_ id: String, _ how: (inout Outgoing) -> Void) {
        for at in state.outbox.indices where state.outbox[at].id == id { how(&state.outbox[at]) }
    }
}
