// Resend (sends through Svix): https://resend.com/docs/dashboard/webhooks/introduction
//
//   name  resend/email.delivered, resend/email.bounced, …: the event's type
//   id    the header svix-id, the same on each retry
//   ts    when the event happened; data.created_at is when the email was sent
//   data  the email, contact or domain that the event is about
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.type) {
    throw new Error("this is no Resend event: it has no type");
  }
  var ts = Date.parse(evt.created_at);
  var id = headers["Svix-Id"];
  return {
    id: id && `resend/${id}`,
    name: `resend/${evt.type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt.data,
  };
}
