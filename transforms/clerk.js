// Clerk (sends through Svix): https://clerk.com/docs/webhooks/overview
//
//   name  clerk/user.created, clerk/session.ended, clerk/organizationMembership.created, …: the event's type as Clerk
//         writes it, with its capitals
//   id    the header svix-id, the same on each retry
//   ts    the event's timestamp, which is in milliseconds (older instances send none)
//   data  the object that the event is about: event.data.email_addresses, …
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.type) {
    throw new Error("this is no Clerk event: it has no type");
  }
  var id = headers["Svix-Id"];
  return {
    id: id && `clerk/${id}`,
    name: `clerk/${evt.type}`,
    ts: evt.timestamp ? new Date(evt.timestamp).getTime() : undefined,
    data: evt.data,
  };
}
