package main

import "context"

// part runs the part of a measurement that args name: this program starts itself as another process, or in
// another namespace or guest. The second result says whether they name one.
func part(ctx context.Context, args []string) (err error, is bool) {
	if len(args) == 0 {
		return nil, false
	}
	switch args[0] {
	case labWord:
		return runLab(ctx, args[1:]), true
	case guestWord:
		return runGuest(args[1:]), true
	case sbxWord:
		return runSbx(ctx, args[1:]), true
	case mountWord:
		return runMountGuest(args[1:]), true
	case mirrorWord:
		return runMirror(ctx, args[1:]), true
	case mirrorAgent:
		return runMirrorAgent(ctx), true
	case mirrorContents:
		return runMirrorContents(), true
	}
	return nil, false
}
