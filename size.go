package main

import (
	"fmt"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
)

// bytesFlag reads a size as people write it: 10GiB, 512M, 1TB; powers of 1024 all of them. 0 is one that is not given.
func bytesFlag(ctx *cli.Context, name string) (int64, error) {
	said := ctx.String(name)
	if said == "" && !ctx.IsSet(name) {
		return 0, nil
	}
	n, err := units.RAMInBytes(said)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("--%s: %q is no size; write 10GiB, 512M or a number of bytes (K, M, G, T and P are powers of 1024)", name, said)
	}
	return n, nil
}
