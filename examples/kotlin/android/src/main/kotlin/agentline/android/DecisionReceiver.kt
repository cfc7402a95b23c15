package agentline.android

import android.content.BroadcastReceiver
import android.content.Context
import android.content.Intent
import androidx.core.app.NotificationManagerCompat
import kotlin.concurrent.thread

/** A notification's button was pressed: decide, without opening the app. */
class DecisionReceiver : BroadcastReceiver() {
    override fun onReceive(context: Context, intent: Intent) {
        val approvalId = intent.getStringExtra("approval_id") ?: return
        val decision = intent.getStringExtra("decision") ?: return
        val pending = goAsync()
        thread {
            try {
                if (Gateway.decide(Account(context), approvalId, decision)) {
                    NotificationManagerCompat.from(context).cancel(intent.getStringExtra("turn_id"), PushService.APPROVAL)
                }
            } finally {
                pending.finish()
            }
        }
    }
}
