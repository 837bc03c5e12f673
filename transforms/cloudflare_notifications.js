// Cloudflare Notifications: https://developers.cloudflare.com/notifications/reference/webhook-payload-schema/
//
//   name  cloudflare/health_check_status_notification.start, cloudflare/http_alert_origin_error.end, …: the
//         alert_type, and start or end from the alert_event; cloudflare/notification when there is no type
//   id    none: Cloudflare sends none (alert_correlation_id is shared by all alerts of one incident), so the relay
//         makes one
//   ts    when the notification was made (`ts` is in seconds)
//   data  the notification as it came: event.data.text for people, event.data.data for programs
// The test that Cloudflare sends when a webhook is saved holds nothing but a text, and is filtered out.
function transform(evt, headers, queryParams, raw) {
  if (!evt || typeof evt.text !== "string") {
    throw new Error("this is no Cloudflare notification: it has no text");
  }
  if (!evt.data && !evt.alert_type) {
    return null;
  }
  var state = /^ALERT_STATE_EVENT_([A-Z_]+)$/.exec(evt.alert_event || "");
  var type = (evt.alert_type || "notification").toLowerCase();
  return {
    name: `cloudflare/${type}${state ? `.${state[1].toLowerCase()}` : ""}`,
    ts: evt.ts ? evt.ts * 1000 : undefined,
    data: evt,
  };
}
