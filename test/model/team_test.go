package model

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// answerLimit is how long a worker may take for what it is asked to do.
const answerLimit = 2 * time.Minute

// team is the worker processes. They live as long as the test does, so that an
// operation costs no new process.
type team [workers]*member

// member is one worker process, as the test sees it.
type member struct {
	name      string
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
	var members team
	defer func() {
		if err != nil {
			_ = members.stop()
		}
	}()
	for i := range members {
		name := workerName(i)
		link := filepath.Join(dir, name)
		if err := os.Symlink(self, link); err != nil {
			return nil, err
		}
		if members[i], err = newMember(name, link); err != nil {
			return nil, fmt.Errorf("starting %s: %w", name, err)
		}
	}
	return &members, nil
}

func newMember(name, executable string) (*member, error) {
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
	cmd := exec.Command(executable)
	cmd.Env = append(os.Environ(), roleVariable+"="+name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, to.Close(), from.Close())
	}
	return &member{
		name: name, cmd: cmd, to: to, from: from,
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
	for _, m := range t {
		if m == nil {
			continue
		}
		errs = append(errs, m.to.Close(), m.cmd.Wait(), m.from.Close())
	}
	return errors.Join(errs...)
}
