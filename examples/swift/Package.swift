// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "AgentlineExample",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "Agentline", targets: ["Agentline"]),
        .library(name: "AgentlinePush", targets: ["AgentlinePush"]),
    ],
    targets: [
        .target(name: "Agentline"),
        .target(name: "AgentlinePush"),
        .testTarget(name: "AgentlineTests", dependencies: ["Agentline"]),
    ]
)
