// LiveKit: https://docs.livekit.io/intro/basics/rooms-participants-tracks/webhooks-events/
//
//   name  livekit/room.started, livekit/participant.joined, livekit/track.published, livekit/egress.ended,
//         livekit/participant.connection_aborted, …: the event's type, with a dot after the noun
//   id    the event's id (EV_…), the same on each retry
//   ts    when it happened (createdAt is in seconds, as text)
//   data  the event as it came, without what gives access: the room's turnPassword, the ingress's streamKey
function transform(evt, headers, queryParams, raw) {
  if (!evt || !evt.event) {
    throw new Error("this is no LiveKit event: it has no event");
  }
  return {
    id: evt.id && `livekit/${evt.id}`,
    name: `livekit/${evt.event.replace("_", ".")}`, // only the first
    ts: evt.createdAt ? Number(evt.createdAt) * 1000 : undefined,
    data: Object.assign({}, evt, {
      room: evt.room && Object.assign({}, evt.room, { turnPassword: undefined }),
      ingressInfo: evt.ingressInfo && Object.assign({}, evt.ingressInfo, { streamKey: undefined }),
    }),
  };
}
