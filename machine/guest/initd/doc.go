// Package initd is the guest's first process. It reads the boot document, reaches
// the root disk, takes root there, sets up what a guest has (network, account,
// share, Docker's socket) and then only reaps and supervises: its child serves SSH.
//
// It keeps nothing open on the root disk and needs no file of it, so that a guest
// whose /usr and /etc were deleted still answers. It is Linux only.
package initd
