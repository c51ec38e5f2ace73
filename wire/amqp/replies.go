package amqp

import "sync"

// maxReplies bounds the answers that wait for credit on one connection: a client
// asks one thing at a time.
const maxReplies = 16

// Replies brings the answers of a node that is asked on one link and answers on
// another, such as $cbs, to the link that is meant: the zero value is ready. It is
// for one connection, and safe for concurrent use.
type Replies struct {
	mu      sync.Mutex
	senders []*replySender
	waiting []reply
}

type replySender struct {
	*Sender
	target string // as attached
}

type reply struct {
	session *session
	to      string
	payload []byte
}

// Add takes a link on which answers go, while it is being attached. It has the link's
// Detached.
func (r *Replies) Add(s *Sender) {
	added := &replySender{Sender: s}
	if s.Target != nil {
		added.target = s.Target.Address
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.senders = append(r.senders, added)
	s.Detached = func(*Error) { r.remove(added) }
}

func (r *Replies) remove(gone *replySender) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, s := range r.senders {
		if s == gone {
			r.senders = append(r.senders[:i], r.senders[i+1:]...)
			return
		}
	}
}

// Answer sends an answer to what came on a link, once there is a link for it that has
// credit. replyTo is the property of the request, and not to be relied on: SDKs write
// the target of their link, its name, or something of neither. It gives false when too
// many wait.
func (r *Replies) Answer(from *Receiver, replyTo string, payload []byte) bool {
	r.mu.Lock()
	if len(r.waiting) >= maxReplies {
		r.mu.Unlock()
		return false
	}
	r.waiting = append(r.waiting, reply{from.session, replyTo, payload})
	r.mu.Unlock()
	from.session.c.Wake()
	return true
}

// Fetch sends what waits. It is for Handler.Fetch.
func (r *Replies) Fetch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var still []reply
	for _, a := range r.waiting {
		if a.session.isOver() {
			continue
		}
		if s := r.route(&a); s == nil || !s.Send(Outgoing{Payload: a.payload, Settled: true}) {
			still = append(still, a)
		}
	}
	r.waiting = still
}

// route gives the link that an answer is for: of the same session by its target, by
// its name, or because there is no other; else the only one of the connection.
func (r *Replies) route(a *reply) *Sender {
	var same []*replySender
	for _, s := range r.senders {
		if s.session == a.session {
			same = append(same, s)
		}
	}
	for _, named := range []func(*replySender) bool{
		func(s *replySender) bool { return s.target == a.to },
		func(s *replySender) bool { return s.Name == a.to },
	} {
		for _, s := range same {
			if a.to != "" && named(s) {
				return s.Sender
			}
		}
	}
	switch {
	case len(same) == 1:
		return same[0].Sender
	case len(same) == 0 && len(r.senders) == 1:
		return r.senders[0].Sender
	}
	return nil
}
