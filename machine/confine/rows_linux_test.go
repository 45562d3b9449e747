package confine

import "testing"

// The file server is a child of this step: the folders that it is given and nothing else, no capability, no way
// back to root.
func TestW103_ConfinementOfTheFileServer(t *testing.T) {
	t.Run("landlock", TestLandlockRefusesTheRest)
	t.Run("capabilities", TestRootWithoutAUIDHasNoCapability)
	t.Run("descriptors", TestChildIsNobodyAndKeepsItsDescriptors)
	t.Run("seccomp", TestSealedProcessServesFilesAndNothingElse)
}
