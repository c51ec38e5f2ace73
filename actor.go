package signet

import "context"

// An Actor is on whose behalf something is done.
type Actor struct {
	// Name is the shared access policy whose key was shown, "admin" for the admin
	// token, or what of the server acts by itself.
	Name   string
	Remote string // address that the request came from; empty for the server itself
}

type actorKey struct{}

// WithActor gives a context of what is done on behalf of a.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf gives the actor of a context; without one, the server acts by itself,
// as "signet".
func ActorOf(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{Name: "signet"}
}
