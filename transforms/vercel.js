// Vercel: https://vercel.com/docs/webhooks/webhooks-api
//
//   name  vercel/deployment.succeeded, vercel/project.created, vercel/integration_configuration.removed, …:
//         the event's type, with underscores for its dashes
//   id    the event's id, the same on each retry
//   ts    when Vercel made the event, in milliseconds (text is read too)
//   data  the event as it came: event.data.payload.deployment.url
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.id || !evt.type) {
    throw new Error("this is no Vercel event: it has no id or no type");
  }
  var ts = typeof evt.createdAt === "number" ? evt.createdAt : Date.parse(evt.createdAt);
  return {
    id: `vercel/${evt.id}`,
    name: `vercel/${evt.type.split("-").join("_")}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
