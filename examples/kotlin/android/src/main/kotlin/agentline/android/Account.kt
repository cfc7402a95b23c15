package agentline.android

import android.content.Context
import androidx.core.content.edit
import java.util.UUID

/** Where the gateway is and who is signed in. Keep the token encrypted in a real app. */
class Account(context: Context) {
    private val kept = context.getSharedPreferences("agentline", Context.MODE_PRIVATE)

    var url: String?
        get() = kept.getString("url", null)
        set(value) = kept.edit { putString("url", value) }

    var token: String?
        get() = kept.getString("token", null)
        set(value) = kept.edit { putString("token", value) }

    /** Made once; pass it to `Line` too, so that the gateway knows which device has seen what. */
    val deviceId: String
        get() = kept.getString("device_id", null)
            ?: UUID.randomUUID().toString().also { kept.edit { putString("device_id", it) } }
}
