// Notion: https://developers.notion.com/reference/webhooks-events-delivery
//
//   name  notion/page.created, notion/page.content_updated, notion/comment.created, …: the event's type
//   id    the event's id, the same on each retry
//   ts    when it happened
//   data  the event as it came: ids only. Fetch event.data.entity.id over Notion's API
// The request with the verification_token never comes here: the relay keeps it.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.id || !evt.type) {
    throw new Error("this is no Notion event: it has no id or no type");
  }
  var ts = Date.parse(evt.timestamp);
  return {
    id: `notion/${evt.id}`,
    name: `notion/${evt.type}`,
    ts: isNaN(ts) ? undefined : ts,
    data: evt,
  };
}
