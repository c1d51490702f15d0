// SPDX-License-Identifier: GPL-3.0-or-later
//
// cri-pull SOCKET PARALLEL IMAGE...
//
// Asks a container runtime for images as a kubelet does, by CRI, so many at a time, and prints how many seconds all took.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cri-pull:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) < 3 {
		return fmt.Errorf("usage: cri-pull SOCKET PARALLEL IMAGE...")
	}
	parallel, err := strconv.Atoi(arguments[1])
	if err != nil || parallel < 1 {
		return fmt.Errorf("%q is no number of pulls", arguments[1])
	}
	connection, err := grpc.NewClient("unix://"+arguments[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := cri.NewImageServiceClient(connection)
	waiting := make(chan string)
	var group sync.WaitGroup
	var mutex sync.Mutex
	var failed error
	started := time.Now()
	for range parallel {
		group.Add(1)
		go func() {
			defer group.Done()
			for image := range waiting {
				request := &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}}
				if _, err := client.PullImage(context.Background(), request); err != nil {
					mutex.Lock()
					failed = fmt.Errorf("%s: %w", image, err)
					mutex.Unlock()
				}
			}
		}()
	}
	for _, image := range arguments[2:] {
		waiting <- image
	}
	close(waiting)
	group.Wait()
	fmt.Printf("%.3f\n", time.Since(started).Seconds())
	return failed
}
