package agentline

import kotlinx.serialization.Serializable

/**
 * What an app keeps and shows. Store it whole, in one write (`Wire.encodeToString(state)`), so that a cursor never goes
 * apart from the text it belongs to.
 */
@Serializable
data class State(
    val threads: Map<String, ThreadState> = emptyMap(),
    val outbox: List<Outgoing> = emptyList(),
    /** Answers to approval requests that are not confirmed yet. */
    val decisions: List<Decision> = emptyList(),
    /** For a list screen. */
    val list: Map<String, Summary> = emptyMap(),
)

@Serializable
data class ThreadState(
    val threadId: String,
    /** Where to go on; null until something of the thread was shown. */
    val cursor: String? = null,
    val turns: List<Turn> = emptyList(),
    /** The agent is at work. */
    val typing: Boolean = false,
    /** The last message that a person has seen, on whichever device. */
    val seen: String? = null,
)

@Serializable
data class Turn(
    val turnId: String,
    /** What the person wrote. */
    val user: String = "",
    /** The answer so far. */
    val text: String = "",
    val reasoning: String = "",
    /** `running` until it is `completed`, `cancelled`, `failed` or `interrupted`. */
    val status: String = "running",
    /** The answer's id, for `seen`; known when the turn has ended. */
    val messageId: String? = null,
    val tools: List<Tool> = emptyList(),
    /** What waits for a decision. */
    val approvals: List<Approval> = emptyList(),
    val error: Failure? = null,
    /** The text is not all of it: `GET /api/turns/{id}` has the whole once the turn has ended. */
    val cut: Boolean = false,
)

/** A message that is not in its thread's log yet: show it below the turns. */
@Serializable
data class Outgoing(
    val id: String,
    val threadId: String,
    val content: String,
    /** `sending`; `accepted`: durable, and waits for its turn; `failed`: sent again at the next connect if retryable. */
    val status: String = "sending",
    val turnId: String? = null,
    val error: Failure? = null,
)

@Serializable
data class Decision(val approvalId: String, val decision: String, val text: String? = null)

@Serializable
data class Summary(
    val threadId: String,
    val agent: String,
    val title: String,
    val status: String,
    val unread: Int,
    val preview: String,
)
