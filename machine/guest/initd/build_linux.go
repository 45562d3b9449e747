package initd

import (
	"fmt"
	"log/slog"

	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/guest/build"
)

// buildImage is the agent's life in a builder microVM. The console's last line
// tells the host how it went.
func buildImage(log *slog.Logger, config boot.Config) error {
	err := tryBuild(log, config)
	if err != nil {
		fmt.Printf("%s: %v\n", boot.BuildFailed, err)
	} else {
		fmt.Println(boot.BuildDone)
	}
	powerOff()
	return nil
}

func tryBuild(log *slog.Logger, config boot.Config) error {
	if config.Net != nil {
		if err := setUpNetwork(config); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	disk, err := FindDisk(boot.RootSerial)
	if err != nil {
		return err
	}
	b := &build.Builder{Config: config, Disk: disk, Log: log}
	if config.Layer {
		return b.RunLayer()
	}
	if b.Payload, err = FindDisk(boot.PayloadSerial); err != nil {
		return err
	}
	return b.Run()
}
