package agentline

import java.io.IOException
import java.net.URLEncoder
import java.time.Instant
import java.util.UUID
import java.util.concurrent.TimeUnit
import kotlin.random.Random
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancelChildren
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import kotlinx.coroutines.runInterruptible
import kotlinx.coroutines.withTimeoutOrNull
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.Response
import okhttp3.WebSocket
import okhttp3.WebSocketListener

private const val RENEW_BEFORE_MS = 60_000L

/**
 * One socket to the gateway that comes back by itself, for as long as [run] runs. Every method may be called from any
 * thread.
 *
 * [token] gives a token that is valid now, a fresh one if its argument is true, or raises `IOException`; it is asked
 * before every connect. [url] is `https://chat.example.org`.
 * [deviceId] is the id under which this device is registered for push, [kept] what was kept of an earlier life.
 */
class Line(
    private val url: String,
    private val agent: String,
    private val token: suspend (renew: Boolean) -> String,
    private val deviceId: String? = null,
    kept: State = State(),
) {
    private val client = Client(kept)
    private val states = MutableStateFlow(client.state)
    private val connected = MutableStateFlow(false)
    private var socket: WebSocket? = null
    private val wakes = Channel<Unit>(Channel.CONFLATED)
    private val fetching = mutableSetOf<String>()

    // OkHttp answers the gateway's pings and sends its own: a dead network is found out after two intervals.
    private val http = OkHttpClient.Builder().pingInterval(15, TimeUnit.SECONDS).build()

    val state: StateFlow<State> = states.asStateFlow()
    val online: StateFlow<Boolean> = connected.asStateFlow()

    /** Returns the message's id. Works offline: it is sent, once, when the line is back. */
    fun send(threadId: String, content: String): String {
        val id = UUID.randomUUID().toString()
        act { client.send(threadId, content, id) }
        return id
    }

    fun resend(id: String) = act { client.resend(id) }

    fun open(threadId: String) = act { client.open(threadId) }

    fun leave(threadId: String) = act { client.leave(threadId) }

    fun decide(approvalId: String, decision: String, text: String? = null) =
        act { client.decide(approvalId, decision, text) }

    fun seen(threadId: String, messageId: String) = act { client.seen(threadId, messageId) }

    fun cancel(threadId: String) = act { client.cancel(threadId) }

    /** The app is in the foreground or the network is back: do not sit out the wait. */
    fun wake() {
        wakes.trySend(Unit)
    }

    /**
     * Connect, and stay connected until cancelled. Returns when it makes no sense to go on: 4501 sign in again, 4503 and
     * 4504 ask the operator, 4505 too many connections.
     */
    suspend fun run(): Int {
        var renew = false
        while (true) {
            val code = connection(renew)
            when (val next = synchronized(this) { client.closed(code, Random.nextDouble()).also { publish() } }) {
                is Next.Stop -> return next.code
                is Next.Reconnect -> {
                    renew = next.renew
                    wakes.tryReceive()
                    withTimeoutOrNull(next.afterMs) { wakes.receive() }
                }
            }
        }
    }

    /** One connection from its beginning to its end. Returns the code it was closed with. */
    private suspend fun connection(renew: Boolean): Int = coroutineScope {
        val bearer = bearer(renew) ?: return@coroutineScope 1006
        val ended = CompletableDeferred<Int>()
        val query = deviceId?.let { "?device_id=${encoded(it)}" } ?: ""
        val request = request("/api/${encoded(agent)}/ws$query", bearer)
        val opened = http.newWebSocket(request, object : WebSocketListener() {
            override fun onMessage(webSocket: WebSocket, text: String) {
                val frame = Wire.decodeFromString<ServerFrame>(text)
                if (frame.type == "ready") frame.expiresAt?.let { launch { renewBefore(it) } }
                for (turnId in received(frame, webSocket, ended)) launch { fetchWhole(turnId) }
            }

            override fun onClosing(webSocket: WebSocket, code: Int, reason: String) {
                webSocket.close(1000, null)
                ended.complete(code)
            }

            override fun onFailure(webSocket: WebSocket, t: Throwable, response: Response?) {
                val refused = response != null && response.code != 101
                ended.complete(if (refused) codeOfRefusal(response.code) else 1006)
            }
        })
        try {
            ended.await()
        } finally {
            synchronized(this@Line) {
                ended.cancel() // what is still on its way is not taken any more
                socket = null
            }
            opened.cancel()
            coroutineContext.cancelChildren()
        }
    }

    /** Take a frame. Returns the turns to fetch. */
    private fun received(frame: ServerFrame, from: WebSocket, ended: CompletableDeferred<Int>): List<String> =
        synchronized(this) {
            if (ended.isCompleted) return emptyList()
            socket = from
            act { client.receive(frame) }
            client.missing().filter { fetching.add(it) }
        }

    private suspend fun renewBefore(expiresAt: String) {
        delay(maxOf(Instant.parse(expiresAt).toEpochMilli() - System.currentTimeMillis() - RENEW_BEFORE_MS, 1000))
        // Without a new one the connection lives until the token expires; then the next connect asks again.
        bearer(true)?.let { act { listOf(ClientFrame("auth", token = it)) } }
    }

    private suspend fun fetchWhole(turnId: String) {
        try {
            val request = request("/api/turns/${encoded(turnId)}", bearer(false) ?: return)
            val answer = runInterruptible(Dispatchers.IO) {
                http.newCall(request).execute().use { if (it.isSuccessful) it.body.string() else null }
            }
            if (answer != null) act { client.whole(Wire.decodeFromString(answer)).let { emptyList() } }
        } catch (_: IOException) {
            // It stays missing: the next frame tries again.
        } finally {
            synchronized(this) { fetching.remove(turnId) }
        }
    }

    /** A token, or null if there is none to be had now. */
    private suspend fun bearer(renew: Boolean): String? = try {
        token(renew)
    } catch (_: IOException) {
        null
    }

    private fun request(path: String, bearer: String) =
        Request.Builder().url("$url$path").header("Authorization", "Bearer $bearer").build()

    private fun encoded(text: String) = URLEncoder.encode(text, "UTF-8")

    private fun act(what: () -> List<ClientFrame>) = synchronized(this) {
        what().forEach { socket?.send(Wire.encodeToString(ClientFrame.serializer(), it)) }
        publish()
    }

    private fun publish() {
        states.value = client.state
        connected.value = client.online
    }
}
