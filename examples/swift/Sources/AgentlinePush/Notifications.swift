#if canImport(UserNotifications)
import Foundation
import UserNotifications

/// The app's side of push: registering, the buttons of an approval, and notifications that were read elsewhere.
public struct Notifications: Sendable {
    private let url: URL
    private let token: @Sendable () async throws -> String

    public init(url: URL, token: @escaping @Sendable () async throws -> String) {
        self.url = url
        self.token = token
    }

    /// The buttons of `agentline.approval`. Once, when the app starts.
    public static func addCategories() {
        let approve = UNNotificationAction(
            identifier: "approved", title: "Approve", options: [.authenticationRequired])
        let decline = UNNotificationAction(identifier: "declined", title: "Decline", options: [])
        let approval = UNNotificationCategory(
            identifier: "agentline.approval", actions: [approve, decline], intentIdentifiers: [])
        UNUserNotificationCenter.current().setNotificationCategories([approval])
    }

    /// From `didRegisterForRemoteNotificationsWithDeviceToken`, at each start of the app.
    public func register(deviceId: String, deviceToken: Data, sandbox: Bool) async throws {
        let hex = deviceToken.map { String(format: "%02x", $0) }.joined()
        let device = [
            "platform": "ios", "token": hex, "environment": sandbox ? "sandbox" : "production",
        ]
        try await call("PUT", ["api", "devices", deviceId], device)
    }

    /// From `userNotificationCenter(_:didReceive:)`. True if a button decided; false if the person opened the app.
    public func decide(_ response: UNNotificationResponse) async throws -> Bool {
        let push = response.notification.request.content.userInfo["agentline"] as? [String: Any]
        guard let approvalId = push?["approval_id"] as? String,
            ["approved", "declined"].contains(response.actionIdentifier)
        else { return false }
        try await call("POST", ["api", "approvals", approvalId], ["decision": response.actionIdentifier])
        return true
    }

    /// From `application(_:didReceiveRemoteNotification:)`: read on another device, so take it away here.
    public static func withdraw(_ userInfo: [AnyHashable: Any]) async {
        guard let push = userInfo["agentline"] as? [String: Any], push["kind"] as? String == "seen",
            let turnId = push["turn_id"] as? String
        else { return }
        let center = UNUserNotificationCenter.current()
        let shown = await center.deliveredNotifications().filter { notification in
            let other = notification.request.content.userInfo["agentline"] as? [String: Any]
            return other?["turn_id"] as? String == turnId
        }
        center.removeDeliveredNotifications(withIdentifiers: shown.map(\.request.identifier))
    }

    private func call(_ method: String, _ path: [String], _ body: [String: String]) async throws {
        var request = URLRequest(url: path.reduce(url) { $0.appendingPathComponent($1) })
        request.httpMethod = method
        request.httpBody = try JSONEncoder().encode(body)
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        request.setValue("Bearer \(try await token())", forHTTPHeaderField: "Authorization")
        let (_, response) = try await URLSession.shared.data(for: request)
        guard let status = (response as? HTTPURLResponse)?.statusCode, (200..<300).contains(status) else {
            throw URLError(.badServerResponse)
        }
    }
}
#endif
