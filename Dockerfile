# The static binaries and nothing else.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make build

FROM scratch
COPY --from=build /src/bin/ /usr/local/bin/
WORKDIR /data
ENTRYPOINT ["/usr/local/bin/smelt"]
