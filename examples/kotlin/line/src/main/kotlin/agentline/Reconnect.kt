package agentline

import kotlin.math.min

/** What to do when a connection has ended. */
sealed interface Next {
    /** Connect again after so many milliseconds, with a new token if [renew]. */
    data class Reconnect(val afterMs: Long, val renew: Boolean) : Next

    /** Not before something has changed. */
    data class Stop(val code: Int) : Next
}

private const val FIRST_MS = 500L
private const val MOST_MS = 30_000L

/**
 * [attempt] counts the connections since the last `ready`, [floorMs] is what the server asked to wait, [random] is in
 * [0, 1): spreading over the whole interval keeps a thousand phones from coming back at the same moment.
 */
fun afterClose(code: Int, attempt: Int, floorMs: Long, random: Double): Next {
    if (code in 4500..4999) return Next.Stop(code)
    val most = min(MOST_MS, FIRST_MS shl min(attempt, 10))
    val renew = code == 4401
    if (renew && attempt == 0) return Next.Reconnect(0, renew)
    return Next.Reconnect(floorMs + (random * most).toLong(), renew)
}

/** The close code that says the same as a refused upgrade. */
fun codeOfRefusal(status: Int): Int = when (status) {
    401 -> 4501
    403 -> 4503
    else -> 1006
}
