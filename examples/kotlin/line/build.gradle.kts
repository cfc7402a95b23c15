plugins {
    kotlin("jvm")
    kotlin("plugin.serialization")
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    api("com.squareup.okhttp3:okhttp:5.1.0")
    api("org.jetbrains.kotlinx:kotlinx-serialization-json:1.9.0")
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.10.2")
}

// Plays the scenarios that the clients of all languages share.
val scenarios by tasks.registering(JavaExec::class) {
    classpath = sourceSets["test"].runtimeClasspath
    mainClass = "agentline.ScenariosKt"
    args(rootDir.resolve("../scenarios").path)
}

tasks.named("check") {
    dependsOn(scenarios)
}
