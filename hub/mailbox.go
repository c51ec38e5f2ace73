package hub

// A Delivery is something that the hub has for a device: one of the types that
// the files of its kind declare. The door fetches it with Receive and says it in
// its protocol.
type Delivery interface{ Kind() Kinds }

// Kinds is a set of kinds of deliveries.
type Kinds uint32

// The kinds.
const (
	DesiredChanges Kinds = 1 << iota
	MethodCalls
)

// Listen says what the device listens to from now on; at first it is nothing. It
// is not told of anything else.
func (s *Session) Listen(to Kinds) {
	if s.principal.RenewOnly {
		return // nothing is delivered to it
	}
	s.listens.Store(uint32(to))
	if to&MethodCalls != 0 {
		s.hub.listening(s)
	}
}

func (s *Session) listensTo(k Kinds) bool { return Kinds(s.listens.Load())&k != 0 }

// maxMail bounds what waits in a session's mailbox for its door. A door that
// writes fetches at once; one whose device reads nothing is closed within its
// write deadline.
const maxMail = 64

// post puts a delivery into the session's mailbox and wakes the door. It does
// not wait: false says that the session has ended, or that its device is too
// slow for more.
func (s *Session) post(d Delivery) bool {
	s.mailMu.Lock()
	if s.Ended() != nil || len(s.mail) >= maxMail {
		s.mailMu.Unlock()
		return false
	}
	s.mail = append(s.mail, d)
	s.mailMu.Unlock()
	s.wake()
	return true
}

// Receive gives the next delivery, false when there is none. The door calls it
// after a wake until there is none.
func (s *Session) Receive() (Delivery, bool) {
	s.mailMu.Lock()
	defer s.mailMu.Unlock()
	for len(s.mail) > 0 {
		d := s.mail[0]
		s.mail[0] = nil
		s.mail = s.mail[1:]
		if s.listensTo(d.Kind()) {
			return d, true
		}
	}
	s.mail = nil // an idle session holds no memory for mail
	return nil, false
}
