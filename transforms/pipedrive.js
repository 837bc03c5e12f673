// Pipedrive: https://pipedrive.readme.io/docs/guide-for-webhooks-v2
//
//   name  pipedrive/deal.create, pipedrive/person.change, pipedrive/organization.delete, …: the entity and the action.
//         Webhooks of version 1 say it otherwise: pipedrive/deal.added, pipedrive/deal.updated.
//   id    the notification's id, with the entity, the action and the time. (In version 1 the id is the deal's or
//         person's, so that only all of it together names one change.)
//   ts    when it happened
//   data  the body as it came: event.data.data is the deal, person, …, event.data.previous what it was before;
//         in version 1 event.data.current and event.data.previous
function transform(evt, headers, queryParams, raw) {
  var meta = evt && evt.meta;
  var entity = meta && (meta.entity || meta.object);
  if (!entity || !meta.action) {
    throw new Error("this is no Pipedrive notification: its meta has no entity or no action");
  }
  // Version 2 writes the time as text, version 1 in seconds and, beside it, in microseconds.
  var isText = typeof meta.timestamp === "string";
  var ts = isText ? Date.parse(meta.timestamp) : meta.timestamp * 1000;
  var moment = isText ? meta.timestamp : meta.timestamp_micro || meta.timestamp;
  var kind = snake(entity);
  return {
    id: meta.id && moment && `pipedrive/${kind}.${meta.action}.${meta.id}.${moment}`,
    name: `pipedrive/${kind}.${meta.action}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}

// activityType → activity_type
function snake(text) {
  return text.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
}
