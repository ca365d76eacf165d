FROM scratch
ADD root.tar /
ENV PATH=/usr/bin:/bin
CMD ["python3"]
