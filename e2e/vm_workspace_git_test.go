package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gitLife is what a developer does with a repository.
const gitLife = `set -e
export GIT_CONFIG_GLOBAL=/tmp/gitconfig
git config --global user.name guest; git config --global user.email guest@example.com; git config --global init.defaultBranch main
mkdir life && cd life
git init -q origin && cd origin
for i in $(seq 60); do mkdir -p d$((i % 6)); echo line $i > d$((i % 6))/f$i; done
git add -A && git commit -q -m one
cd .. && git clone -q origin clone && cd clone
test "$(git config remote.origin.url)" = "$(realpath ../origin)"
git checkout -q -b topic && echo topic >> d1/f1 && git commit -q -a -m topic
git checkout -q main && echo main >> d2/f2 && git commit -q -a -m main
git rebase -q main topic && test "$(git rev-list --count topic)" = 3
GIT_SEQUENCE_EDITOR=true git rebase -q -i --exec 'test -e d1/f1' main
git checkout -q main && git merge -q --no-ff -m merge topic
echo stashed >> d3/f3 && git stash -q && test -z "$(git status --porcelain)" && git stash pop -q && git diff --quiet d1 && ! git diff --quiet d3
git checkout -q d3 && git mv d4/f4 d4/moved && git commit -q -m moved
git tag -a -m v1 v1 && git branch -q -d topic && git push -q origin main:pushed v1
git worktree add -q ../tree -b work
(cd ../tree && echo tree > new && git add new && git commit -q -m tree && test -z "$(git status --porcelain)")
test "$(git worktree list | wc -l)" = 2
git worktree move ../tree ../elsewhere && test -z "$(git -C ../elsewhere status --porcelain)"
git worktree remove ../elsewhere && test ! -e ../elsewhere && git worktree prune
git merge -q work && git branch -q -d work
git reset -q --hard HEAD~1 && git reset -q --hard ORIG_HEAD
git worktree add -q -b kept ../kept
git gc -q --prune=now && test "$(find .git/objects -name '*.pack' | wc -l)" = 1 && git fsck --strict
git status --porcelain && cp .git/index /tmp/index && git status --porcelain && cmp .git/index /tmp/index
`

// testGitLife: a repository lives on the workspace, and the host's git finds it whole. The guard takes no part in it.
func testGitLife(t *testing.T, w *world) {
	r := w.run("exec", "--", "sh", "-c", gitLife)
	if r.status != 0 {
		t.Fatalf("status %d after %v\n%s%s", r.status, r.took, tail(r.out), tail(r.err))
	}
	if r.out != "" {
		t.Errorf("git said %q", r.out)
	}
	t.Logf("%v: %s", r.took, r.err)
	for _, repo := range []string{"origin", "clone", "kept"} {
		dir := filepath.Join(w.project, "life", repo)
		for _, args := range [][]string{{"fsck", "--strict", "--full"}, {"status", "--porcelain"}} {
			out, err := exec.Command("git", append([]string{"-C", dir, "-c", "safe.directory=*"}, args...)...).Output()
			if err != nil || strings.TrimSpace(string(out)) != "" {
				t.Errorf("git %q of %s on the host: %v %s", args, repo, err, out)
			}
		}
	}
}
