package main

import (
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// serviceManager returns how to tell the service manager that started this process how it is, and how often it wants to
// hear that it is alive; nil and 0 where it does not.
func serviceManager() (notify func(string) error, watchdog time.Duration, err error) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil, 0, nil
	}
	watchdog, err = daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, 0, fmt.Errorf("the service manager's watchdog: %w", err)
	}
	return func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}, watchdog, nil
}
