//go:build !linux

package main

import (
	"context"
	"errors"
)

func networks(context.Context, options, string) ([]row, error) {
	return nil, errors.New("network: the peers run on Linux alone")
}

func mounts(context.Context, options, string) ([]row, error) {
	return nil, errors.New("mount: sbx' file server runs on Linux alone")
}

func syncs(context.Context, options, string) ([]row, error) {
	return nil, errors.New("sync: memory is measured on Linux alone")
}

func part(context.Context, []string) (error, bool) { return nil, false }
