package agentline.android

import android.Manifest
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.content.Context
import android.content.Intent
import android.content.pm.PackageManager
import android.os.Build
import androidx.core.app.NotificationCompat
import androidx.core.app.NotificationManagerCompat
import androidx.core.content.ContextCompat
import com.google.firebase.messaging.FirebaseMessagingService
import com.google.firebase.messaging.RemoteMessage

private const val CHANNEL = "answers"

/** Shows what the gateway pushes. Its methods run on a thread of their own and may block for some seconds. */
class PushService : FirebaseMessagingService() {
    override fun onNewToken(token: String) {
        Gateway.register(Account(this), token)
    }

    override fun onMessageReceived(message: RemoteMessage) {
        val push = message.data
        val turnId = push["turn_id"] ?: return
        val notifications = NotificationManagerCompat.from(this)
        when (push["kind"]) {
            "seen" -> notifications.cancel(turnId, ANSWER) // read on another device
            "approval" -> show(turnId, APPROVAL, approval(push))
            else -> show(turnId, ANSWER, builder(push).setContentText(textOf(push, turnId)))
        }
    }

    /** What came, or the whole of it where that was cut and can be had in time. */
    private fun textOf(push: Map<String, String>, turnId: String): String {
        val inline = push["body"].orEmpty()
        val fetchToken = push["fetch_token"]
        val url = Account(this).url
        if (push["truncated"] != "true" || fetchToken == null || url == null) return inline
        return Gateway.answer(url, turnId, fetchToken)?.ifEmpty { null } ?: inline
    }

    private fun approval(push: Map<String, String>): NotificationCompat.Builder {
        val approvalId = push["approval_id"].orEmpty()
        return builder(push)
            .setContentText(push["body"])
            .setPriority(NotificationCompat.PRIORITY_HIGH)
            .addAction(0, "Approve", decision(approvalId, push["turn_id"].orEmpty(), "approved"))
            .addAction(0, "Decline", decision(approvalId, push["turn_id"].orEmpty(), "declined"))
    }

    private fun decision(approvalId: String, turnId: String, decision: String): PendingIntent {
        val intent = Intent(this, DecisionReceiver::class.java)
            .setAction("$approvalId/$decision") // tells one intent from another
            .putExtra("approval_id", approvalId)
            .putExtra("turn_id", turnId)
            .putExtra("decision", decision)
        return PendingIntent.getBroadcast(this, 0, intent, PendingIntent.FLAG_IMMUTABLE)
    }

    private fun builder(push: Map<String, String>): NotificationCompat.Builder {
        val open = packageManager.getLaunchIntentForPackage(packageName)?.putExtra("thread_id", push["thread_id"])
            ?.setAction("open/${push["thread_id"]}")
        val opened = open?.let { PendingIntent.getActivity(this, 0, it, PendingIntent.FLAG_IMMUTABLE) }
        return NotificationCompat.Builder(this, CHANNEL)
            .setSmallIcon(android.R.drawable.stat_notify_chat)
            .setContentTitle(push["title"])
            .setStyle(NotificationCompat.BigTextStyle())
            .setContentIntent(opened)
            .setAutoCancel(true)
            .setOnlyAlertOnce(true)
    }

    /** Under the turn's id: a push that comes twice replaces itself. */
    private fun show(turnId: String, id: Int, notification: NotificationCompat.Builder) {
        val asks = Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU
        val denied = ContextCompat.checkSelfPermission(this, Manifest.permission.POST_NOTIFICATIONS) !=
            PackageManager.PERMISSION_GRANTED
        if (asks && denied) return
        val manager = getSystemService(Context.NOTIFICATION_SERVICE) as NotificationManager
        manager.createNotificationChannel(NotificationChannel(CHANNEL, "Answers", NotificationManager.IMPORTANCE_HIGH))
        NotificationManagerCompat.from(this).notify(turnId, id, notification.build())
    }

    companion object {
        const val ANSWER = 1
        const val APPROVAL = 2
    }
}
