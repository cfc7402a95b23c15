package agentline

import java.io.File
import kotlinx.serialization.encodeToString
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.decodeFromJsonElement
import kotlinx.serialization.json.double
import kotlinx.serialization.json.encodeToJsonElement
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

/** Plays the scenarios that the clients of all languages share. The argument names their folder. */
fun main(args: Array<String>) {
    val files = File(args[0]).listFiles { file -> file.extension == "json" }!!.sorted()
    var steps = 0
    for (file in files) {
        var client = Client()
        for (step in Wire.parseToJsonElement(file.readText()).jsonObject["steps"]!!.jsonArray.map { it.jsonObject }) {
            val where = "${file.name} step ${++steps}"
            if ("restart" in step) client = Client(Wire.decodeFromString(Wire.encodeToString(client.state)))
            val closed = step["closed"]?.jsonObject
            if (closed != null) {
                val next = client.closed(closed["code"]!!.jsonPrimitive.int, closed["random"]!!.jsonPrimitive.double)
                same(shown(next), step["next"]!!, where)
            } else {
                same(Wire.encodeToJsonElement(play(client, step)), step["out"] ?: JsonArray(emptyList()), where)
            }
            step["expect"]?.let { holds(Wire.encodeToJsonElement(client.state), it, where) }
            same(Wire.encodeToJsonElement(client.missing()), step["missing"] ?: JsonArray(emptyList()), where)
        }
    }
    println("${files.size} scenarios, $steps steps")
}

private fun play(client: Client, step: JsonObject): List<ClientFrame> {
    fun at(name: String) = step[name]!!.jsonPrimitive.content
    fun at(name: String, field: String) = step[name]!!.jsonObject[field]?.jsonPrimitive?.content
    return when {
        "receive" in step -> client.receive(Wire.decodeFromJsonElement(step["receive"]!!))
        "send" in step -> client.send(at("send", "thread_id")!!, at("send", "content")!!, at("send", "id")!!)
        "resend" in step -> client.resend(at("resend"))
        "open" in step -> client.open(at("open"))
        "leave" in step -> client.leave(at("leave"))
        "cancel" in step -> client.cancel(at("cancel"))
        "seen" in step -> client.seen(at("seen", "thread_id")!!, at("seen", "message_id")!!)
        "decide" in step ->
            client.decide(at("decide", "approval_id")!!, at("decide", "decision")!!, at("decide", "text"))
        "whole" in step -> client.whole(Wire.decodeFromJsonElement(step["whole"]!!)).let { emptyList() }
        "restart" in step -> emptyList()
        else -> error("unknown step $step")
    }
}

private fun shown(next: Next): JsonElement = when (next) {
    is Next.Stop -> JsonObject(mapOf("stop" to JsonPrimitive(next.code)))
    is Next.Reconnect ->
        JsonObject(mapOf("reconnect_ms" to JsonPrimitive(next.afterMs), "renew" to JsonPrimitive(next.renew)))
}

private fun same(found: JsonElement, wanted: JsonElement, where: String) =
    check(found == wanted) { "$where: $found instead of $wanted" }

/** Every key of [wanted] is in [found], as it is there; null stands for absent too. */
private fun holds(found: JsonElement?, wanted: JsonElement, where: String) {
    when (wanted) {
        is JsonArray -> {
            check(found is JsonArray && found.size == wanted.size) { "$where: $found" }
            wanted.forEachIndexed { index, value -> holds(found[index], value, "$where[$index]") }
        }
        is JsonObject -> for ((key, value) in wanted) holds((found as? JsonObject)?.get(key), value, "$where.$key")
        else -> same(found ?: JsonNull, wanted, where)
    }
}
