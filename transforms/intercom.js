// Intercom: https://developers.intercom.com/docs/references/webhooks/webhook-models
//
//   name  intercom/conversation.user.created, intercom/contact.created, …: the topic
//   id    the notification's id, the same on each retry
//   ts    when the notification was made (`created_at` is in seconds)
//   data  the notification's data: event.data.item is the conversation, contact, …; and the workspace's app_id
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.topic) {
    throw new Error("this is no Intercom notification: it has no topic");
  }
  return {
    id: evt.id && `intercom/${evt.id}`, // the test notification has no id
    name: `intercom/${evt.topic}`,
    ts: evt.created_at ? evt.created_at * 1000 : undefined,
    data: Object.assign({}, evt.data, { app_id: evt.app_id }),
  };
}
