// Okta event hooks: https://developer.okta.com/docs/concepts/event-hooks/
//
// One body holds the events of a short while, and each becomes one.
//
//   name  okta/user.session.start, okta/group.user_membership.add, okta/user.lifecycle.create, …: the eventType
//   id    the event's uuid, the same on each retry
//   ts    when it was published
//   data  the event as it came, which is what the System Log holds: event.data.actor, event.data.target
// The GET with X-Okta-Verification-Challenge never comes here: the relay answers it.
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.data || !Array.isArray(evt.data.events)) {
    throw new Error("this is no Okta event hook: it has no data.events");
  }
  return evt.data.events.map(function (event) {
    if (!event || typeof event.eventType !== "string") {
      throw new Error("this is no Okta event: it has no eventType");
    }
    var ts = Date.parse(event.published);
    return {
      id: event.uuid && `okta/${event.uuid}`,
      name: `okta/${event.eventType.toLowerCase()}`, // some have capitals: user.authentication.auth_via_AD_agent
      ts: isNaN(ts) ? undefined : ts,
      data: event,
    };
  });
}
