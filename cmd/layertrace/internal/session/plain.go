package session

import (
	"fmt"

	"github.com/layertrace/layertrace/resolver"
)

// inUse tells whether a container's layer is: by an overlay, or as its root.
func inUse(c *resolver.Container) bool {
	if c.Plain {
		return c.Running()
	}
	return c.OverlayDevice != 0
}

// noteInUse tells the kernel side whether a layer is in use that no overlay is above
// of: of the others it sees that for itself. What is deleted in one that is not is
// its removal.
func (s *Session) noteInUse(w *watched) error {
	if w.layer == 0 || !w.facts.Plain || w.mounted == w.facts.Running() {
		return nil
	}
	w.mounted = w.facts.Running()
	if _, err := s.cfg.Kernel.SetMounted(w.layer, func() bool { return w.mounted }); err != nil {
		return fmt.Errorf("noting whether the layer of %s is in use: %w", w.facts.Name, err)
	}
	return nil
}
