package cli

import (
	"errors"
	"fmt"
)

// usageError is an error of the command line itself: status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError carries an exit status other than 1. err is nil when there is nothing
// to say, as when a guest's command failed.
type exitError struct {
	status int
	err    error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

// errInterrupted says that a question got Ctrl-C for an answer.
var errInterrupted = errors.New("interrupted")

// hinted is an error with the next step, which is printed on a line of its own.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// Hint returns the next step.
func (e hinted) Hint() string { return e.hint }

func hintf(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

// hintOf returns the next step that err or one that it wraps knows. Other packages'
// errors may have a Hint method too.
func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// exitStatus is the one place that turns an error into an exit status.
func exitStatus(err error) int {
	exit, usage := exitError{}, usageError{}
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.status
	case errors.As(err, &usage):
		return statusUsage
	default:
		return statusFailed
	}
}
