// Linear: https://linear.app/developers/webhooks
//
//   name  linear/issue.create, linear/comment.update, linear/issuelabel.update: the type and the action
//   id    the header linear-delivery, the same on each retry
//   ts    when the request was sent, which Linear gives in milliseconds
//   data  the payload as it came: event.data.data is the object, event.data.updatedFrom what it was before
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.type || !evt.action) {
    throw new Error("this is no Linear event: it has no type or no action");
  }
  var delivery = headers["Linear-Delivery"];
  return {
    id: delivery && `linear/${delivery}`,
    // Only notifications have an action of several words: issueAssignedToYou
    name: `linear/${evt.type.toLowerCase()}.${evt.action.replace(/([a-z])([A-Z])/g, "$1_$2").toLowerCase()}`,
    ts: evt.webhookTimestamp,
    data: evt,
  };
}
