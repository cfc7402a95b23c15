package agentline.android

import java.io.IOException
import java.util.concurrent.TimeUnit
import okhttp3.MediaType.Companion.toMediaType
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.RequestBody.Companion.toRequestBody
import org.json.JSONObject

/** The few calls by HTTP that work without a socket. Each blocks for at most ten seconds: call them off the main thread. */
object Gateway {
    private val http = OkHttpClient.Builder().callTimeout(10, TimeUnit.SECONDS).build()
    private val json = "application/json".toMediaType()

    /** Tell the gateway where to push. At each start of the app, and whenever FCM hands out another token. */
    fun register(account: Account, fcmToken: String): Boolean {
        val body = JSONObject().put("platform", "android").put("token", fcmToken)
        return call(account, "/api/devices/${account.deviceId}", "PUT", body)
    }

    /** Decide from a notification's button, with the app closed. */
    fun decide(account: Account, approvalId: String, decision: String): Boolean =
        call(account, "/api/approvals/$approvalId", "POST", JSONObject().put("decision", decision))

    /** The whole answer of a turn, with a push's `fetch_token`; null where it cannot be had. */
    fun answer(url: String, turnId: String, fetchToken: String): String? = try {
        val request = Request.Builder().url("$url/api/turns/$turnId").header("Authorization", "Bearer $fetchToken").build()
        http.newCall(request).execute().use { response ->
            if (response.isSuccessful) JSONObject(response.body.string()).getString("content") else null
        }
    } catch (_: IOException) {
        null
    }

    private fun call(account: Account, path: String, method: String, body: JSONObject): Boolean {
        val url = account.url ?: return false
        val token = account.token ?: return false
        val request = Request.Builder()
            .url("$url$path")
            .header("Authorization", "Bearer $token")
            .method(method, body.toString().toRequestBody(json))
            .build()
        return try {
            http.newCall(request).execute().use { it.isSuccessful }
        } catch (_: IOException) {
            false
        }
    }
}
