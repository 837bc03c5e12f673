// Contentful: https://www.contentful.com/developers/docs/webhooks/overview/
//
//   name  contentful/entry.publish, contentful/asset.delete, contentful/content_type.save: the header
//         X-Contentful-Topic without its first word ContentManagement
//   id    the topic, and which version (or revision) of which object it is about: Contentful numbers no events
//   ts    when the object was deleted, or else last changed
//   data  the body as it came, mostly the object itself: event.data.sys.id, event.data.fields.title["en-US"]
// Where the webhook's body was customised and has no `sys`, there is neither id nor ts.
function transform(evt, headers, queryParams, raw) {
  var topic = headers["X-Contentful-Topic"];
  if (!evt || !topic) {
    throw new Error("this is no Contentful event: it has no X-Contentful-Topic, or no JSON");
  }
  var sys = evt.sys || {};
  var changed = sys.deletedAt || sys.updatedAt || sys.createdAt;
  var name = topic.split(".").slice(1).map(snakeCase).join(".");
  return {
    id: sys.id && changed && `contentful/${name}/${place(sys)}/${sys.id}/${version(sys)}/${changed}`,
    name: `contentful/${name}`,
    ts: timeOf(changed),
    data: evt,
  };
}

// The space and the environment, as ids are unique only within them.
function place(sys) {
  return [sys.space, sys.environment]
    .map(function (link) {
      return link && link.sys ? link.sys.id : "-";
    })
    .join("/");
}

// Objects of the management API have a version, published ones a revision.
function version(sys) {
  return sys.version || sys.revision || 0;
}

// ContentType → content_type, auto_save → auto_save
function snakeCase(name) {
  return name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();
}

function timeOf(text) {
  var ms = Date.parse(text);
  return isNaN(ms) ? undefined : ms;
}
