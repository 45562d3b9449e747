package supervisor

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/ssh"

	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/guest/agent"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/trust"
	"github.com/sbx-vm/sbx/machine/hostca"
	"github.com/sbx-vm/sbx/machine/initramfs"
	"github.com/sbx-vm/sbx/machine/qemu"
	"github.com/sbx-vm/sbx/machine/store"
	"github.com/sbx-vm/sbx/netfilter/gateway"
	"github.com/sbx-vm/sbx/netfilter/intercept"
)

// The guest's network: one guest and one neighbour. 100.64/10 is what a container
// network inside never uses by default.
func guestPrefix() netip.Prefix { return netip.MustParsePrefix("100.64.0.2/30") }
func gatewayAddr() netip.Addr   { return netip.MustParseAddr("100.64.0.1") }

// guestMAC is locally administered, and the sandbox's own.
func guestMAC(name string) net.HardwareAddr {
	h := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x52, 0x54, 0x00, h[0], h[1], h[2]}
}

// prepare does all that can fail without a machine: the host, the image, the disk,
// the rules, the initramfs.
func (s *Supervisor) prepare(ctx context.Context) error {
	s.o.Tell(Message{Phase: PhasePrepare})
	var err error
	if s.host, err = qemu.Probe(ctx, s.spec.Arch, s.o.Getenv("SBX_ACCEL")); err != nil {
		return err
	}
	s.record.Accel = s.host.Accel
	images, err := image.Open(s.o.Store.CacheDir())
	if err != nil {
		return err
	}
	if s.img, err = images.Inspect(s.spec.Image); err != nil {
		return err
	}
	if err := s.prepareDisk(ctx); err != nil {
		return err
	}
	keys, err := s.keys()
	if err != nil {
		return err
	}
	for i, secret := range s.spec.Network.Secrets {
		s.spec.Network.Secrets[i].Placeholder = keys.Placeholders[secret.Name]
	}
	if s.rules, err = loadRules(s.files, s.spec.Network); err != nil {
		return err
	}
	if s.authority, err = intercept.LoadAuthority([]byte(keys.CACert), []byte(keys.CAKey)); err != nil {
		return err
	}
	if err := s.secrets.load(ctx); err != nil {
		s.o.Log.Warn("secrets", "error", err)
	}
	return s.writeInitrd(keys)
}

// prepareDisk makes the disk at the first start, and looks at its header at every
// later one: the guest could have written there.
func (s *Supervisor) prepareDisk(ctx context.Context) error {
	if _, err := os.Stat(s.files.Disk()); errors.Is(err, fs.ErrNotExist) {
		return image.CreateOverlay(ctx, s.files.Disk(), s.img, int64(s.spec.Resources.Disk))
	}
	return image.CheckOverlay(ctx, s.files.Disk(), s.img)
}

// keys makes what the sandbox's own files lack: all of it at the first start, placeholders for secrets that
// came later.
func (s *Supervisor) keys() (store.Keys, error) {
	keys, err := s.files.ReadKeys()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	changed := false
	for _, key := range []*string{&keys.Host, &keys.Client} {
		if *key != "" {
			continue
		}
		if *key, err = newKey(); err != nil {
			return keys, err
		}
		changed = true
	}
	if keys.CACert == "" {
		cert, key, err := intercept.NewAuthority(s.spec.Name, time.Now())
		if err != nil {
			return keys, err
		}
		keys.CACert, keys.CAKey, changed = string(cert), string(key), true
	}
	for _, secret := range s.spec.Network.Secrets {
		if keys.Placeholders[secret.Name] == "" {
			keys.Placeholders = maps.Clone(keys.Placeholders)
			if keys.Placeholders == nil {
				keys.Placeholders = map[string]string{}
			}
			keys.Placeholders[secret.Name], changed = intercept.NewPlaceholder(), true
		}
	}
	if !changed {
		return keys, nil
	}
	return keys, s.files.WriteKeys(keys)
}

func newKey() (string, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "sbx")
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(block)), nil
}

// writeInitrd joins the agent, the modules and this start's boot document.
func (s *Supervisor) writeInitrd(keys store.Keys) error {
	binary, err := agent.Binary(s.spec.Arch)
	if err != nil {
		return err
	}
	modules, err := initramfs.Modules(s.img.Modules)
	if err != nil {
		return err
	}
	config, err := s.bootConfig(keys)
	if err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(s.files.Initrd(), renameio.WithPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup() //nolint:errcheck // nothing is left of it after the rename
	if err := errors.Join(initramfs.WriteBase(f, binary, modules), initramfs.WriteBoot(f, config)); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

func (s *Supervisor) bootConfig(keys store.Keys) (boot.Config, error) {
	client, err := ssh.ParsePrivateKey([]byte(keys.Client))
	if err != nil {
		return boot.Config{}, fmt.Errorf("keys of the sandbox: %w", err)
	}
	certificates, err := hostca.Extra(s.o.Getenv)
	if err != nil {
		return boot.Config{}, err
	}
	certificates += keys.CACert
	c := boot.Config{
		Version: 1, Hostname: s.spec.Name, Time: time.Now().UTC(),
		Net:     &boot.Net{MAC: guestMAC(s.spec.Name).String(), Address: guestPrefix(), Gateway: gatewayAddr(), MTU: gateway.DefaultMTU},
		User:    boot.User{Name: s.spec.User.Name, UID: s.spec.User.UID, GID: s.spec.User.GID},
		HostKey: keys.Host, AuthorizedKey: string(ssh.MarshalAuthorizedKey(client.PublicKey())),
		Workdir: s.spec.Workspace.Target, Env: trust.Environment(), Docker: s.spec.Docker, CACerts: certificates,
	}
	maps.Copy(c.Env, s.spec.Env)
	maps.Copy(c.Env, s.secrets.environment())
	for i, e := range s.exports() {
		c.Mounts = append(c.Mounts, boot.Mount{Export: e.Name, Target: s.targets()[i], ReadOnly: e.ReadOnly})
	}
	return c, nil
}
