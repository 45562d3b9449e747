package cli

import "github.com/spf13/cobra"

// commands are all of them, in the order that help shows.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		newInit(a), newUp(a), newRun(a), newExec(a), newShell(a), newCp(a), newDiff(a), newApply(a), newUndo(a), newCheckpoint(a), newSync(a),
		newStop(a), newRestart(a), newReset(a), newRm(a),
		newLs(a), newStatus(a), newLogs(a), newPolicy(a), newSecret(a), newTop(a), newPort(a),
		newConfig(a), newTrust(a), newImage(a), newDoctor(a), newVersion(a),
		newSupervise(a), newConfine(), newFileServer(a),
	}
}
