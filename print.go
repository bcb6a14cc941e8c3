package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"lockstep/node"
)

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printCreated(w io.Writer, s node.VolumeStatus) error {
	_, err := fmt.Fprintf(w, "volume %s made: %s, block size %d, UUID %s, %s\n", s.Name, humanBytes(s.SizeBytes),
		s.BlockSize, s.ID, s.State)
	return err
}

func printResized(w io.Writer, s node.VolumeStatus) error {
	_, err := fmt.Fprintf(w, "volume %s has %s now\n", s.Name, humanBytes(s.SizeBytes))
	return err
}

func printList(w io.Writer, list []node.VolumeStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATE\tSIZE\tBACKEND\tLOG USED\tCLIENTS\tERROR")
	for _, s := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s of %s\t%d\t%s\n", s.Name, s.State, humanBytes(s.SizeBytes), backend(s),
			humanBytes(s.LogUsedBytes), humanBytes(s.LogBudgetBytes), s.Clients, s.Error)
	}
	return t.Flush()
}

func printVolume(w io.Writer, s node.VolumeStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]any{
		{"name", s.Name},
		{"UUID", s.ID},
		{"state", s.State},
		{"error", s.Error},
		{"size", fmt.Sprintf("%s (%d bytes)", humanBytes(s.SizeBytes), s.SizeBytes)},
		{"block size", s.BlockSize},
		{"backend", backend(s)},
		{"log directory", s.LogDir},
		{"log used", fmt.Sprintf("%s of %s", humanBytes(s.LogUsedBytes), humanBytes(s.LogBudgetBytes))},
		{"head LSN", s.Head},
		{"durable LSN", s.Durable},
		{"checkpoint LSN", s.Checkpoint},
		{"checkpointing", s.Checkpointing},
		{"epoch", s.Epoch},
		{"clients", s.Clients},
		{"created", s.Created.Format(time.RFC3339)},
	} {
		if row[1] != "" {
			fmt.Fprintf(t, "%s\t%v\n", row[0], row[1])
		}
	}
	return t.Flush()
}

func backend(s node.VolumeStatus) string {
	if s.Device != "" {
		return s.Device
	}
	return s.Backend
}

func humanBytes(n int64) string { return units.BytesSize(float64(n)) }
