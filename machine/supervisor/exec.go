package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/crypto/ssh"

	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/machine/guest/sshd"
)

// exec runs a command over a channel of the standing connection.
func (g *guest) exec(ctx context.Context, request control.ExecRequest, streams control.Streams) (control.Exit, error) {
	client, err := g.connection(ctx)
	if err != nil {
		return control.Exit{}, err
	}
	session, err := client.NewSession()
	if err != nil {
		return control.Exit{}, fmt.Errorf("open a channel to the guest: %w", err)
	}
	defer session.Close()
	// Closing the channel is how the guest learns that nobody waits any more.
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	if request.TTY {
		if err := session.RequestPty(request.Term, request.Rows, request.Cols, ssh.TerminalModes{}); err != nil {
			return control.Exit{}, fmt.Errorf("get a terminal in the guest: %w", err)
		}
	}
	session.Stdout, session.Stderr = streams.Stdout, streams.Stderr
	stdin, err := session.StdinPipe()
	if err != nil {
		return control.Exit{}, err
	}
	if err := begin(session, request); err != nil {
		return control.Exit{}, err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		io.Copy(stdin, streams.Stdin) //nolint:errcheck // the command may have closed its input, or the client is gone
		stdin.Close()
	}()
	go relay(session, streams, ended)
	return exitOf(session.Wait())
}

func begin(session *ssh.Session, request control.ExecRequest) error {
	if len(request.Argv) == 0 { // SSH's own request for a shell names neither folder nor user
		request.Argv = []string{"/bin/bash", "-l"}
	}
	payload, err := sshd.Command{Argv: request.Argv, Dir: request.Dir, User: request.User, Env: request.Env}.Encode()
	if err != nil {
		return err
	}
	if err := session.Start(payload); err != nil {
		return fmt.Errorf("start the command in the guest: %w", err)
	}
	return nil
}

// relay passes sizes and signals on until the command has ended.
func relay(session *ssh.Session, streams control.Streams, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case size := <-streams.Resize:
			session.WindowChange(size.Rows, size.Cols) //nolint:errcheck // the next one is as good
		case name := <-streams.Signals:
			session.Signal(ssh.Signal(name)) //nolint:errcheck // the command may have ended
		}
	}
}

func exitOf(err error) (control.Exit, error) {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return control.Exit{}, nil
	case errors.As(err, &exit) && exit.Signal() != "":
		return control.Exit{Signal: exit.Signal()}, nil
	case errors.As(err, &exit):
		return control.Exit{Status: exit.ExitStatus()}, nil
	}
	var missing *ssh.ExitMissingError
	if errors.As(err, &missing) {
		return control.Exit{}, errors.New("the connection to the guest ended while the command ran")
	}
	return control.Exit{}, err
}

// sftp opens an SFTP stream, served as the sandbox's user.
func (g *guest) sftp(ctx context.Context) (io.ReadWriteCloser, error) {
	return g.subsystem(ctx, sshd.SubsystemFiles)
}

// subsystem opens a stream to one of the agent's other lives.
func (g *guest) subsystem(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	client, err := g.connection(ctx)
	if err != nil {
		return nil, err
	}
	session, err := client.NewSession()
	if err != nil {
		return nil, err
	}
	in, errIn := session.StdinPipe()
	out, errOut := session.StdoutPipe()
	if err := errors.Join(errIn, errOut, session.RequestSubsystem(name)); err != nil {
		session.Close()
		return nil, fmt.Errorf("start %s in the guest: %w", name, err)
	}
	return subsystemStream{out, in, session}, nil
}

type subsystemStream struct {
	io.Reader
	io.WriteCloser
	session *ssh.Session
}

func (s subsystemStream) Close() error {
	return errors.Join(s.WriteCloser.Close(), ignoreEOF(s.session.Close()))
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// followDocker copies dockerd's log out of the guest for as long as the guest
// can: it is the guest's own `tail`, and its bytes are only written down.
func (s *Supervisor) followDocker() {
	if !s.spec.Docker {
		return
	}
	log, err := openRing(s.files.DockerLog(), logLimit)
	if err != nil {
		s.o.Log.Warn("docker's log", "error", err)
		return
	}
	defer log.Close()
	exit, err := s.guest.exec(s.guest.ctx, control.ExecRequest{
		Argv: []string{"tail", "-n", "+1", "-s", "2", "-F", "/var/log/docker.log"}, Dir: "/", User: "root",
	}, control.Streams{Stdin: eof{}, Stdout: log, Stderr: io.Discard})
	s.o.Log.Debug("docker's log ended", "status", strconv.Itoa(exit.Code()), "error", err)
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
