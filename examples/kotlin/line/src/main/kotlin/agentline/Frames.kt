package agentline

import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNamingStrategy

/** JSON as on the wire: snake_case, nulls left out, unknown fields ignored. */
@OptIn(ExperimentalSerializationApi::class)
val Wire = Json {
    namingStrategy = JsonNamingStrategy.SnakeCase
    ignoreUnknownKeys = true
    explicitNulls = false
    encodeDefaults = true
}

/** Any frame of the server: the fields of docs/protocol.md that this client uses. `type` says which of them there are. */
@Serializable
data class ServerFrame(
    val type: String,
    val threadId: String? = null,
    val turnId: String? = null,
    /** On frames that show an event: where to go on behind it. */
    val cursor: String? = null,
    val id: String? = null,
    val messageId: String? = null,
    val content: String? = null,
    val truncated: Boolean = false,
    val length: Int? = null,
    // ready
    val heartbeatSeconds: Double? = null,
    val expiresAt: String? = null,
    val limits: Limits? = null,
    // attached, snapshot
    val recovered: Boolean = false,
    val turns: List<OpenTurn> = emptyList(),
    val messages: List<ShownMessage> = emptyList(),
    val turn: ShownTurn? = null,
    val approvals: List<Approval> = emptyList(),
    // typing
    val active: Boolean = false,
    // tool_call, tool_result, done, thread_updated
    val callId: String? = null,
    val name: String? = null,
    val title: String? = null,
    val status: String? = null,
    val error: Failure? = null,
    // approval_request, approval_resolved
    val approvalId: String? = null,
    val kind: String? = null,
    val detail: JsonElement? = null,
    val options: List<Option> = emptyList(),
    val freeText: Boolean = false,
    // thread_updated
    val agent: String? = null,
    val unread: Int = 0,
    val preview: String? = null,
    // error, goodbye
    val code: String? = null,
    val message: String? = null,
    val retryable: Boolean = false,
    val retryAfter: Double? = null,
    val reconnectAfterMs: Long? = null,
)

@Serializable
data class Limits(val clientFrameBytes: Int)

@Serializable
data class OpenTurn(val turnId: String, val status: String)

@Serializable
data class ShownMessage(
    val messageId: String,
    val turnId: String,
    val role: String,
    val content: String,
    val status: String? = null,
    val truncated: Boolean = false,
)

@Serializable
data class ShownTurn(
    val turnId: String,
    val content: String,
    val reasoning: String,
    val tools: List<Tool>,
    val truncated: Boolean = false,
)

@Serializable
data class Tool(val callId: String, val name: String, val title: String, val status: String)

@Serializable
data class Option(val id: String, val label: String)

@Serializable
data class Approval(
    val approvalId: String,
    val turnId: String,
    val kind: String,
    val title: String,
    val detail: JsonElement? = null,
    val options: List<Option>,
    val freeText: Boolean,
    val expiresAt: String,
)

@Serializable
data class Failure(val code: String, val message: String, val retryable: Boolean)

/** What `GET /api/turns/{id}` answers, as far as it is used here. */
@Serializable
data class WholeTurn(val turnId: String, val content: String, val userMessage: UserMessage)

@Serializable
data class UserMessage(val content: String)

/** Any frame of the client. */
@Serializable
data class ClientFrame(
    val type: String,
    val id: String? = null,
    val threadId: String? = null,
    val content: String? = null,
    val cursor: String? = null,
    val approvalId: String? = null,
    val decision: String? = null,
    val text: String? = null,
    val messageId: String? = null,
    val token: String? = null,
)
