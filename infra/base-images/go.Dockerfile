FROM scratch
ADD root.tar /
ENV PATH=/usr/bin:/bin GOPATH=/go GOFLAGS=-mod=mod
WORKDIR /go
CMD ["go", "version"]
