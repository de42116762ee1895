package model

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// answerLimit is how long a worker may take for what it is asked to do.
const answerLimit = 2 * time.Minute

// team is the worker processes. They live as long as the test does, or until they are
// killed, so that an operation costs no new process.
type team struct {
	members [workers]*member
	mu      sync.Mutex
	peers   [workers]int // their processes
}

// member is one worker process, as the test sees it.
type member struct {
	name      string
	program   string
	cmd       *exec.Cmd
	to, from  *os.File
	requests  *json.Encoder
	answers   *json.Decoder
	processID uint32
}

// newTeam starts the workers: the test program itself, by other names. Links of
// these names are made in dir.
func newTeam(dir string) (_ *team, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	t := &team{}
	defer func() {
		if err != nil {
			_ = t.stop()
		}
	}()
	for i := range t.members {
		name := workerName(i)
		link := filepath.Join(dir, name)
		if err := os.Symlink(self, link); err != nil {
			return nil, err
		}
		if err := t.start(i, name, link); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *team) start(i int, name, program string) error {
	m, err := newMember(name, program)
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	t.members[i] = m
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers[i] = int(m.processID)
	return nil
}

// processes is the numbers of all of them; others may be replaced meanwhile.
func (t *team) processes() [workers]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers
}

// replace starts another worker for one that has been killed, once that is gone.
func (t *team) replace(i int) error {
	m := t.members[i]
	err := m.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fmt.Errorf("%s was killed and ended otherwise: %w", m.name, err)
	}
	if err := errors.Join(m.to.Close(), m.from.Close()); err != nil {
		return err
	}
	t.members[i] = nil
	return t.start(i, m.name, m.program)
}

func newMember(name, program string) (*member, error) {
	in, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	from, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	defer out.Close()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), roleVariable+"="+name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, to.Close(), from.Close())
	}
	return &member{
		name: name, program: program, cmd: cmd, to: to, from: from,
		requests: json.NewEncoder(to), answers: json.NewDecoder(bufio.NewReader(from)),
		processID: uint32(cmd.Process.Pid),
	}, nil
}

// ask has a worker do something and waits for its answer.
func (m *member) ask(r request) (answer, error) {
	if err := m.tell(r); err != nil {
		return answer{}, err
	}
	return m.hear()
}

func (m *member) tell(r request) error {
	if err := m.requests.Encode(r); err != nil {
		return fmt.Errorf("asking %s: %w", m.name, err)
	}
	return nil
}

func (m *member) hear() (a answer, err error) {
	if err := m.from.SetReadDeadline(time.Now().Add(answerLimit)); err != nil {
		return a, err
	}
	if err := m.answers.Decode(&a); err != nil {
		return a, fmt.Errorf("hearing from %s: %w", m.name, err)
	}
	return a, nil
}

// stop ends the workers and waits for them.
func (t *team) stop() error {
	var errs []error
	for _, m := range t.members {
		if m == nil {
			continue
		}
		errs = append(errs, m.to.Close(), m.cmd.Wait(), m.from.Close())
	}
	return errors.Join(errs...)
}
