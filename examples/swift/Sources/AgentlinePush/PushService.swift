#if canImport(UserNotifications)
import Foundation
import UserNotifications

/// What a Notification Service Extension does with a push of the gateway: where the text was cut, it fetches the rest.
///
/// The extension's own class is one line, `final class NotificationService: PushService {}`, and its Info.plist names the
/// gateway under `AgentlineURL`. iOS gives it about 30 seconds; whatever happens, the text that came is shown.
open class PushService: UNNotificationServiceExtension {
    private var show: ((UNNotificationContent) -> Void)?
    private var content: UNMutableNotificationContent?
    private var fetch: URLSessionDataTask?

    open override func didReceive(
        _ request: UNNotificationRequest, withContentHandler contentHandler: @escaping (UNNotificationContent) -> Void
    ) {
        guard let content = request.content.mutableCopy() as? UNMutableNotificationContent else {
            return contentHandler(request.content)
        }
        show = contentHandler
        self.content = content
        guard let wanted = Self.request(for: request.content.userInfo) else { return finish() }
        fetch = URLSession.shared.dataTask(with: wanted) { [weak self] data, response, _ in
            if let data, (response as? HTTPURLResponse)?.statusCode == 200,
                let turn = try? JSONDecoder().decode(Turn.self, from: data), !turn.content.isEmpty {
                content.body = turn.content
            }
            self?.finish()
        }
        fetch?.resume()
    }

    open override func serviceExtensionTimeWillExpire() {
        fetch?.cancel()
        finish()
    }

    private func finish() {
        DispatchQueue.main.async { [self] in
            if let show, let content { show(content) }
            show = nil
        }
    }

    private struct Turn: Decodable {
        let content: String
    }

    /// The request for the whole text, if the push says that it was cut.
    private static func request(for userInfo: [AnyHashable: Any]) -> URLRequest? {
        guard let push = userInfo["agentline"] as? [String: Any],
            push["kind"] as? String == "turn",
            push["truncated"] as? Bool == true,
            let token = push["fetch_token"] as? String,
            let turnId = push["turn_id"] as? String,
            let gateway = Bundle.main.object(forInfoDictionaryKey: "AgentlineURL") as? String,
            let url = URL(string: gateway)
        else { return nil }
        let path = url.appendingPathComponent("api").appendingPathComponent("turns").appendingPathComponent(turnId)
        var request = URLRequest(url: path, timeoutInterval: 15)
        request.setValue("Bearer \(token)", forHTTPHeaderField: "Authorization")
        return request
    }
}
#endif
