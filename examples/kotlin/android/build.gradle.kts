plugins {
    id("com.android.library")
    kotlin("android")
}

android {
    namespace = "agentline.android"
    compileSdk = 36
    defaultConfig {
        minSdk = 26
    }
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    api(project(":line"))
    implementation("androidx.core:core-ktx:1.16.0")
    implementation("com.google.firebase:firebase-messaging:25.0.0")
}
