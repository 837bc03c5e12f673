// MailerSend: https://developers.mailersend.com/api/v1/webhooks.html
//
//   name  mailersend/activity.sent, mailersend/activity.hard_bounced, mailersend/sender_identity.verified, …: the type
//   id    the type and the id of what it is about, and the time: an activity has an id of its own, but an identity
//         or a domain keeps its id
//   ts    when it happened; else when MailerSend made the request
//   data  the body as it came: event.data.data.email is the email, its recipient and message in it
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.type) {
    throw new Error("this is no MailerSend event: it has no type");
  }
  var about = evt.data || {};
  var time = about.created_at || evt.created_at;
  var ts = Date.parse(time);
  // Both times are the same on a retry; the outer one also tells two events about the same object apart.
  return {
    id: about.id && ["mailersend/" + evt.type, about.id, evt.created_at].filter(Boolean).join("."),
    name: `mailersend/${evt.type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
